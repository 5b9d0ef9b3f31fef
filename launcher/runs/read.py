"""Everything a run directory says about its run, read for people: metrics, attempts, evaluation, plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rundir.attempts import AttemptRecord, read_attempts
from rundir.errors import RunDirError
from rundir.files import read_json
from rundir.metrics import Metrics, last_of_each_step, read_metrics
from rundir.observed import Observed, read_observed
from rundir.outcome import Outcome
from rundir.paths import RunPaths
from rundir.plan import Plan, read_plan
from rundir.progress import Progress, read_progress


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What is known about a run; parts that it has not reached yet are empty."""

    run_dir: Path
    job_text: str
    plan: Plan
    progress: Progress
    attempts: list[AttemptRecord]
    training: list[Metrics]
    evaluations: list[Metrics]
    preflight: dict[str, Any]
    evaluation: dict[str, Any]
    observed: Observed

    @property
    def name(self) -> str:
        """The job's name."""
        return self.plan.name or self.run_dir.name

    @property
    def outcome(self) -> Outcome | None:
        """Outcome of the newest attempt; None while there is none, or it runs."""
        return self.attempts[-1].outcome if self.attempts else None

    @property
    def outcome_label(self) -> str:
        """The outcome, or where the run is."""
        if self.outcome is not None:
            return self.outcome.label
        return "running" if self.attempts else "planned"


def read_run(run_dir: Path) -> RunData:
    """Reads a run directory.

    Raises:
        RunDirError: there is no plan, or a JSON file is damaged.
    """
    lines, paths = list(read_metrics(run_dir)), RunPaths(run_dir)
    return RunData(
        run_dir=run_dir,
        job_text=paths.job.read_text(encoding="utf-8", errors="replace") if paths.job.is_file() else "",
        plan=read_plan(run_dir),
        progress=read_progress(run_dir),
        attempts=read_attempts(run_dir),
        training=last_of_each_step(line for line in lines if line.is_training),
        evaluations=last_of_each_step(line for line in lines if line.is_evaluation),
        preflight=read_json(paths.preflight) or {},
        evaluation=read_json(paths.evaluation) or {},
        observed=read_observed(run_dir),
    )


def backend_name(run_dir: Path) -> str:
    """Return the name of the run's backend.

    Raises:
        RunDirError: the plan has no `launch`.
    """
    launch = read_plan(run_dir).launch
    if not launch:
        raise RunDirError(f"{RunPaths(run_dir).plan} does not say what to launch", "Submit the job again.")
    return launch.backend


def lies_elsewhere(run_dir: Path) -> str:
    """Return where the run's own directory is, as text, if the one here is a mirror; empty if it is not a mirror."""
    state = read_json(RunPaths(run_dir).kubernetes) or {}
    if not state.get("mirrored"):
        return ""
    return f"{state.get('path')} in the pods of namespace {state.get('namespace')}"


def own_directory(run_dir: Path) -> Path:
    """Return the run's own directory; if the one here is a mirror, its path in the pods."""
    state = read_json(RunPaths(run_dir).kubernetes) or {}
    return Path(state.get("path") or run_dir) if state.get("mirrored") else run_dir
