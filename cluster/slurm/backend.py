"""The SLURM backend: submits a run's script, and tells from the scheduler and the run directory where the run is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.agent.attempt.record import close_abandoned
from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS
from cluster.contract import Backend, Handle, Status
from cluster.errors import ClusterError
from cluster.run import lock
from cluster.run.logs import read_logs
from cluster.run.restart_policy import exclusions
from cluster.slurm.job.cancelled_job import note_cancelled
from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.errors import SlurmError
from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.status.pending_reason import explain
from cluster.slurm.status.run_status import (
    BEFORE_IT_RUNS,
    as_far_as_known,
    ended,
    has_begun,
    job_of,
    of_last_submission,
)
from cluster.slurm.status.scheduler_facts import read_scheduler_facts
from cluster.slurm.submit import prepare_script, sbatch
from cluster.slurm.submit.batch_script import SbatchJob, SbatchSettings, render
from cluster.slurm.submit.job_array import render_array
from cluster.slurm.submit.submission_record import Submission, job_ids, read_submission, write_submission
from rundir.attempts import AttemptRecord, newest_attempt, read_attempts
from rundir.errors import RunDirError
from rundir.outcome import StopReason
from rundir.paths import RunPaths
from rundir.plan import LaunchSpec, Plan, read_launch, read_plan
from rundir.progress import read_progress
from rundir.states import RunState
from rundir.stop import write_stop

_POLL_SECONDS = 1.0
_FRESH_SECONDS = 2.0
"""How long an answer of the scheduler is good enough for `status`: a controller serves thousands of people."""
_EXPLAIN_SECONDS = 15.0
_CLOSING_SECONDS = 45.0
_NODE_LOCAL = ("/tmp/", "/var/tmp/", "/dev/shm/")
_CODE = Path(__file__).parents[2]


class SlurmBackend(Backend):
    """Runs as SLURM jobs. Nothing is kept but the run directory and what the scheduler knows."""

    name = "slurm"
    renders = "script"

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        self._scheduler = scheduler or Scheduler()
        self._answers: dict[Path, tuple[float, SlurmJob | None]] = {}
        self._explained: dict[tuple[str, str], tuple[float, str]] = {}

    def require(self, launch: LaunchSpec, runs_dir: Path) -> list[str]:
        """SLURM's commands are here; every node must see the run directory."""
        Scheduler(retry_seconds=()).version()
        if not str(runs_dir.absolute()).startswith(_NODE_LOCAL):
            return []
        return [f"Warning: {runs_dir} is rarely shared by nodes; every node must see the run directory."]

    def rendered(self, run_dir: Path, plan: Plan, job_text: str) -> str:
        """The batch script."""
        now = time.time()
        first = self.prepare_script(run_dir, plan, now)
        return f"{first}\n# And when that has succeeded:\n\n" * bool(first) + self.script(run_dir, plan, now)

    def submit(self, run_dir: Path) -> Handle:
        """Gives the run's script to SLURM."""
        run_dir = run_dir.resolve()
        self._refuse_living(run_dir)
        self._note_cancelled(run_dir)
        submitted, plan = time.time(), read_plan(run_dir)
        script, first = self.script(run_dir, plan, submitted), self.prepare_script(run_dir, plan, submitted)
        (run_dir / "logs").mkdir(exist_ok=True)
        prepare_id = (
            str(sbatch.submit(self._scheduler, run_dir, first, name=prepare_script.SCRIPT).job_id) if first else ""
        )
        try:
            job_id = str(sbatch.submit(self._scheduler, run_dir, script, _after(prepare_id)).job_id)
        except (ClusterError, RunDirError):
            if prepare_id:
                with contextlib.suppress(ClusterError):  # why the run's own job was refused says more
                    self._scheduler.cancel(prepare_id)
            raise
        write_submission(run_dir, Submission(job_id, submitted, prepare_id))
        self._answers.clear()
        return Handle(self.name, job_id, run_dir)

    def submit_array(self, folder: Path, run_dirs: Sequence[Path], max_parallel: int | None = None) -> list[Handle]:
        """Gives the runs of a sweep to SLURM as one job array; each is a run of its own from then on.

        Args:
            folder: of the sweep, for the array's script.
            run_dirs: planned runs.
            max_parallel: so many at a time.
        """
        folder, run_dirs = folder.resolve(), [run_dir.resolve() for run_dir in run_dirs]
        for run_dir in run_dirs:
            self._refuse_living(run_dir)
            (run_dir / "logs").mkdir(exist_ok=True)
        submitted = time.time()
        scripts = [self.script(run_dir, read_plan(run_dir), submitted) for run_dir in run_dirs]
        text = render_array(folder, run_dirs, scripts, max_parallel)
        for run_dir, script in zip(run_dirs, scripts, strict=True):
            (run_dir / sbatch.SCRIPT).write_text(script, encoding="utf-8")
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        array = str(sbatch.submit(self._scheduler, folder, text).job_id)
        ids = [f"{array}_{number}" for number in range(len(run_dirs))]
        for run_dir, job_id in zip(run_dirs, ids, strict=True):
            write_submission(run_dir, Submission(job_id, submitted))
        self._answers.clear()
        return [Handle(self.name, job_id, run_dir) for run_dir, job_id in zip(run_dirs, ids, strict=True)]

    def array_script(self, folder: Path, plans: Mapping[Path, Plan], max_parallel: int | None) -> str:
        """The array's script of planned runs, as `submit_array` would submit it."""
        scripts = [self.script(run_dir, plan, time.time()) for run_dir, plan in plans.items()]
        return render_array(folder, list(plans), scripts, max_parallel)

    def script(self, run_dir: Path, plan: Plan, submitted: float) -> str:
        """The batch script of a planned run, exactly as it would be submitted."""
        return render(self._wanted(run_dir, plan, submitted), SbatchSettings.from_plan(plan.launch.slurm))

    def prepare_script(self, run_dir: Path, plan: Plan, submitted: float) -> str:
        """The script of the job that tokenises first; empty where there is none, or the data are there already."""
        site = SbatchSettings.from_plan(plan.launch.slurm)
        if site.prepare.get("where") != prepare_script.JOB or RunPaths(run_dir).fingerprint.is_file():
            return ""
        wanted = replace(self._wanted(run_dir, plan, submitted), gpus_per_node=0)
        return prepare_script.render_prepare(wanted, site)

    def _wanted(self, run_dir: Path, plan: Plan, submitted: float) -> SbatchJob:
        launch = plan.launch
        launch.require_startable()
        known = exclusions(read_attempts(run_dir), submitted)
        return SbatchJob(
            run_dir=run_dir,
            nodes=launch.nodes,
            grace_seconds=launch.grace_seconds,
            submitted=submitted,
            python=sys.executable,
            code=_CODE,
            cpus_per_node=launch.cpus_per_node,
            gpus_per_node=0 if launch.device == "cpu" else launch.ranks_per_node,
            walltime_seconds=launch.walltime_seconds,
            lead_seconds=launch.lead_seconds,
            exclude=[node.node for node in known],
            goes_on_alone=not launch.ends_with_training,
        )

    def status(self, run_dir: Path) -> Status:
        """From the scheduler, which knows whether the run lives, and the newest record."""
        record = newest_attempt(run_dir)
        if read_submission(run_dir) is None:
            return Status(RunState.NONE, "not submitted yet")
        try:
            job = self._recent(run_dir)
            first = None if job is not None and has_begun(job) else self._preparing(run_dir)
        except SlurmError as error:
            return as_far_as_known(run_dir, error)
        if first is not None and first.is_alive:
            return self._before(job, first, record)
        if job is not None and job.is_alive:
            return self._alive(run_dir, job, record)
        return ended(run_dir, job, record, first)

    def logs(
        self, run_dir: Path, *, rank: int | None = None, attempt: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Out of the run directory."""
        return read_logs(run_dir, rank, attempt, follow, lambda: self.status(run_dir).state.is_alive)

    def cancel(self, run_dir: Path) -> None:
        """Asks the agents to stop the run; then, or when it only waits, cancels its jobs."""
        run_dir = run_dir.resolve()
        job = self._living(run_dir)
        if job is None:
            return
        write_stop(run_dir, StopReason.STOPPED, "tuneyard cancel", urgent=True)
        if job.state not in BEFORE_IT_RUNS:
            self._wait_for_leaving(run_dir)
        given = read_submission(run_dir)
        for job_id in [*job_ids(run_dir), *([given.prepare] if given and given.prepare else [])]:
            self._cancel_job(run_dir, job_id)
        self._answers.clear()
        if not self._gone(run_dir, _CLOSING_SECONDS):
            raise ClusterError(f"job {job.id} does not end", f"ask the site: scontrol show job {job.id}")
        with contextlib.suppress(lock.LockHeldError), lock.AgentLock(run_dir) as held:
            close_abandoned(run_dir, held.previous)

    def wait(self, run_dir: Path, timeout_seconds: float | None = None) -> Status:
        """Asks the scheduler again and again."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (status := self.status(run_dir)).state not in (RunState.NONE, RunState.ENDED):
            if deadline is not None and time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        return status

    def _refuse_living(self, run_dir: Path) -> None:
        if (job := self._living(run_dir)) is not None:
            raise ClusterError(f"{run_dir.name} is job {job.id} already, {job.state}", "wait for it, or cancel it")
        if (who := lock.holder(run_dir)) is not None:
            raise lock.LockHeldError(*lock.already_running(run_dir, who))

    def _note_cancelled(self, run_dir: Path) -> None:
        """Writes into the last record that its job was cancelled by hand, before the next attempt begins."""
        record = newest_attempt(run_dir)
        if record is None or not of_last_submission(run_dir, record):
            return
        job = job_of(record, self._newest(run_dir), self._first(run_dir))
        if job is None or job.state != "CANCELLED":
            return
        if record.generation.endswith(f".{job.restarts}"):  # not while it waited to be started again
            note_cancelled(run_dir, job.id)

    def _recent(self, run_dir: Path) -> SlurmJob | None:
        asked, job = self._answers.get(run_dir, (float("-inf"), None))
        if time.monotonic() - asked > _FRESH_SECONDS:
            job = self._newest(run_dir)
            self._answers[run_dir] = (time.monotonic(), job)
        return job

    def _newest(self, run_dir: Path) -> SlurmJob | None:
        """The living job of the run, else the last one that the scheduler remembers."""
        known = [job for job_id in job_ids(run_dir) if (job := self._scheduler.job(job_id)) is not None]
        living = [job for job in known if job.is_alive]
        running = [job for job in living if job.state not in BEFORE_IT_RUNS]
        return next((job for job in [*running, *living, *known]), None)

    def _preparing(self, run_dir: Path) -> SlurmJob | None:
        """The job that tokenises the run's data first, as long as the scheduler remembers it."""
        given, key = read_submission(run_dir), run_dir / prepare_script.SCRIPT
        asked, job = self._answers.get(key, (float("-inf"), None))
        if given is not None and given.prepare and time.monotonic() - asked > _FRESH_SECONDS:
            job = self._first(run_dir)
            self._answers[key] = (time.monotonic(), job)
        return job

    def _first(self, run_dir: Path) -> SlurmJob | None:
        given = read_submission(run_dir)
        return self._scheduler.job(given.prepare) if given is not None and given.prepare else None

    def _living(self, run_dir: Path) -> SlurmJob | None:
        """The run's job, or the one that tokenises for it, which may outlive one that was cancelled by hand."""
        job = self._newest(run_dir)
        if job is None or not job.is_alive:
            job = self._first(run_dir)
        return job if job is not None and job.is_alive else None

    def _alive(self, run_dir: Path, job: SlurmJob, record: AttemptRecord | None) -> Status:
        number = record.number if record else None
        if job.state in BEFORE_IT_RUNS:
            return Status(RunState.QUEUED, self._why_pending(job), number)
        if record is None or not record.is_open:
            return Status(RunState.RUNNING, f"job {job.id} on {job.nodes}: the agents are starting or leaving", number)
        progress = read_progress(run_dir).of_attempt(record.number)
        return Status(RunState.RUNNING, progress.state if progress else "no sign of the trainer yet", number)

    def _before(self, job: SlurmJob | None, first: SlurmJob, record: AttemptRecord | None) -> Status:
        """The job with the GPUs waits for the one that tokenises, or is gone before that."""
        number = record.number if record else None
        waits = f"job {job.id} waits for its data" if job and job.is_alive else "the job that waited for its data ended"
        if first.state in BEFORE_IT_RUNS:
            return Status(RunState.QUEUED, f"{waits}; {self._why_pending(first)}", number)
        return Status(RunState.RUNNING, f"{waits}: job {first.id} tokenises them on {first.nodes}", number)

    def _why_pending(self, job: SlurmJob) -> str:
        """SLURM's reason in words. The controller is asked for what explains it no more often than people look."""
        asked, words = self._explained.get((job.id, job.reason), (float("-inf"), ""))
        if time.monotonic() - asked > _EXPLAIN_SECONDS:
            words = f"job {job.id}: {explain(job, read_scheduler_facts(self._scheduler, job)).words}"
            self._explained[job.id, job.reason] = (time.monotonic(), words)
        return words

    def _wait_for_leaving(self, run_dir: Path) -> None:
        grace_seconds = read_launch(run_dir).grace_seconds
        self._gone(run_dir, grace_seconds + TERM_TO_KILL_SECONDS + _CLOSING_SECONDS / 3)

    def _cancel_job(self, run_dir: Path, job_id: str) -> None:
        job = self._scheduler.job(job_id)
        if job is not None and job.is_alive:
            sbatch.handle(run_dir, job_id).cancel(check=False)

    def _gone(self, run_dir: Path, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._living(run_dir) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _after(prepare_id: str) -> list[str]:
    """What makes a job wait for another one, and go when that fails."""
    return [f"--dependency=afterok:{prepare_id}", "--kill-on-invalid-dep=yes"] if prepare_id else []
