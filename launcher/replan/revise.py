"""Change the plan of an existing run: plan again from a job file, or move its end. Earlier plans are kept."""

from __future__ import annotations

import copy
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.calibration.correction import Calibration
from launcher.calibration.observed import all_measurements
from launcher.calibration.store import store_path
from launcher.dataset.token_counts import find_counted_size
from launcher.errors import JobError, MachineError
from launcher.jobfile import JobFile, LoadedJob, SettingError
from launcher.planner.forecast import bill_json
from launcher.planner.plan import make_plan
from launcher.planner.remote import machine_of
from launcher.planner.settings.defaults import Decision
from launcher.replan.plan_diff import REFUSED, Change, compare, trainer_of
from launcher.site.hardware import this_machine
from launcher.site.job import load_job
from launcher.site.profile import profile_of
from rundir.attempts import read_attempts
from rundir.files import atomic_write, write_json
from rundir.paths import PLAN
from rundir.plan import PlanChange, read_plan
from rundir.progress import read_progress
from rundir.quantities import count
from trainer.config import TrainerConfig, TrainingConfig
from trainer.schedule_rules import check_schedule

KEPT = re.compile(r"(?:plan|job)-(\d{3,})\.(?:json|yaml)")
PINNED = (
    ("model", "dtype"),
    ("data", "packing"),
    ("training", "tokens_per_step"),
    ("training", "learning_rate"),
)
"""Settings whose `auto` keeps the existing run's value."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A changed plan that is not written yet."""

    run_dir: Path
    plan: dict[str, Any]
    changes: list[Change]
    job_text: bytes | None = None

    @property
    def refused(self) -> list[Change]:
        """The changes that the run cannot accept."""
        return [change for change in self.changes if change.kind == REFUSED]

    def has_steps_left(self) -> bool:
        """Return whether the changed plan ends after the step that the run has reached."""
        training, progress = self.plan["trainer"]["training"], read_progress(self.run_dir)
        if training["max_steps"]:
            return bool(training["max_steps"] > (progress.step or 0))
        return bool(training["num_train_epochs"] > (progress.epoch or 0) + 1e-9)

    def write(self, by: str) -> None:
        """Write the plan and the job file; the previous ones are kept under the next free number.

        Raises:
            MachineError: the folder cannot be written to.
            cluster.ClusterError: likewise, for the plan.
        """
        number = next_number(self.run_dir)
        try:
            _keep(self.run_dir / PLAN, self.run_dir / f"plan-{number:03d}.json")
            if self.job_text is not None:
                _keep(self.run_dir / "job.yaml", self.run_dir / f"job-{number:03d}.yaml")
                atomic_write(self.run_dir / "job.yaml", self.job_text)
        except OSError as error:
            raise MachineError(f"{self.run_dir}: cannot be written: {error.strerror}") from error
        write_json(self.run_dir / PLAN, self.plan | {"changes": self._history(by)})

    def _history(self, by: str) -> list[dict[str, Any]]:
        settings = [change.as_json() for change in self.changes]
        change = PlanChange(time=time.time(), by=by, step=saved_step(self.run_dir), settings=tuple(settings))
        return [one.to_json() for one in (*read_plan(self.run_dir).changes, change)]


def replanned(run_dir: Path, job_file: Path) -> Revision:
    """Plan the run again from a job file, on this machine.

    Raises:
        JobError: the job file is wrong, or a step of the run cannot be laid over what it asks for.
    """
    old = read_plan(run_dir).to_json()
    before, loaded = trainer_of(old), load_job(job_file)
    job, decisions = pinned(loaded.job, before)
    plan = _planned(run_dir, loaded, job, before)
    plan["decisions"] = [*(decision.as_json() for decision in decisions), *plan["decisions"]]
    changes = compare(old, plan, saved_step(run_dir))
    return Revision(run_dir=run_dir, plan=plan, changes=changes, job_text=job_file.read_bytes())


def lengthened(run_dir: Path, *, max_steps: int | None = None, epochs: float | None = None) -> Revision:
    """Return the run's plan with another end, in steps or in epochs; everything else stays."""
    old = read_plan(run_dir).to_json()
    plan = copy.deepcopy(old)
    # max_steps wins where both are set, so counting in epochs takes it away
    plan["trainer"]["training"] |= {"max_steps": max_steps} | ({} if epochs is None else {"num_train_epochs": epochs})
    _refuse_schedule(trainer_of(plan).training, max_steps)
    plan |= {"steps": {"number": max_steps}, "warnings": []}
    if plan.get("prediction"):
        gpus = plan["trainer"]["execution"]["world_size"]
        plan["prediction"] |= {"steps": max_steps} | bill_json(plan["prediction"], max_steps, gpus)
    return Revision(run_dir=run_dir, plan=plan, changes=compare(old, plan, saved_step(run_dir)))


def _refuse_schedule(training: TrainingConfig, max_steps: int | None) -> None:
    """Refuse a schedule that the new length makes invalid; one that was invalid before is accepted as it is.

    Raises:
        JobError: the schedule does not fit into the new length.
    """
    if not check_schedule(training):
        for problem in check_schedule(training, max_steps):
            raise JobError(str(problem), problem.remedy)


def pinned(job: JobFile, before: TrainerConfig) -> tuple[JobFile, list[Decision]]:
    """Return the job with the run's name and its values for `PINNED` settings that are `auto`, and those decisions."""
    values: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "training": {}}
    decisions = []
    for section, name in PINNED:
        # with another max_length the step is refused anyway, and in words about max_length
        if getattr(getattr(job, section), name) == "auto" and job.data.max_length == before.data.max_length:
            value = values[section][name] = getattr(getattr(before, section), name)
            decisions.append(Decision(setting=f"{section}.{name}", value=value, reason="as the run has it"))
    sections = {section: getattr(job, section).model_copy(update=update) for section, update in values.items()}
    return job.model_copy(update={**sections, "name": before.name}), decisions


def _planned(run_dir: Path, loaded: LoadedJob, job: JobFile, before: TrainerConfig) -> dict[str, Any]:
    """Return the new plan, corrected by this run's measurements and its counted data."""
    try:
        profile = profile_of(loaded)
        machine = machine_of(job, profile) if profile else this_machine()
        store = store_path(profile.run_folder() if profile else None)
        calibration = Calibration(measurements=all_measurements(store, [run_dir]))
        known = find_counted_size([run_dir], loaded.job)
        return make_plan(job, machine, profile, calibration=calibration, tokenised=known).as_json()
    except SettingError as error:
        tokens, packs = before.training.tokens_per_step, before.execution.packs_per_step
        if error.setting == "training.tokens_per_step" and job.training.tokens_per_step == tokens:
            raise JobError(
                f"a step of this run is {count(packs, 'pack')}, which the ranks that the job asks for do not divide",
                f"Take a number of ranks that divides {packs}.",
            ) from None
        raise loaded.located(error) from None


def saved_step(run_dir: Path) -> int | None:
    """Return the step of the newest published checkpoint, or None.

    A run directory that is a copy has no checkpoints: there the records tell.
    """
    if not (run_dir / "checkpoints").is_dir():
        return max((record.last_checkpoint_step or 0 for record in read_attempts(run_dir)), default=0) or None
    names = [path.name for path in (run_dir / "checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names if name[len("step-") :].isdigit()), default=None)


def next_number(run_dir: Path) -> int:
    """Return the next free number for a previous plan and job file."""
    used = [int(found[1]) for path in run_dir.iterdir() if (found := KEPT.fullmatch(path.name))]
    return max(used, default=-1) + 1


def _keep(file: Path, kept: Path) -> None:
    if file.exists():
        atomic_write(kept, file.read_bytes())
