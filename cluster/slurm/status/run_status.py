"""A run's status out of its job, as the scheduler tells it, and its newest record."""

from __future__ import annotations

from pathlib import Path

from cluster.agent.verdict.outcome import abandoned, with_down_nodes
from cluster.contract import Status
from cluster.process_identity import boot_id
from cluster.run import lock
from cluster.slurm.scheduler.errors import SlurmError
from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.submit.submission_record import job_ids, read_submission
from rundir.attempts import AttemptRecord, newest_attempt
from rundir.nodes import read_down_nodes
from rundir.outcome import Outcome
from rundir.states import RunState
from rundir.stop import read_stop

BEFORE_IT_RUNS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
"""States of a job that waits for its first or next start."""


def as_far_as_known(run_dir: Path, error: SlurmError) -> Status:
    """The scheduler does not answer: the run directory alone tells, and no more than it can."""
    record = newest_attempt(run_dir)  # anew: asking in vain takes its time
    number = record.number if record else None
    if lock.holder(run_dir) is not None:
        return Status(RunState.RUNNING, f"SLURM does not answer ({error.message}); an agent lives", number)
    if record is not None and record.outcome is not None and record.outcome.is_terminal:
        return Status(RunState.ENDED, record.cause or "", number, record.outcome)
    return Status(RunState.UNKNOWN, f"SLURM does not answer: {error.message}", number)


def ended(run_dir: Path, job: SlurmJob | None, record: AttemptRecord | None, first: SlurmJob | None = None) -> Status:
    """No job of the run lives any more. `first` is the one that tokenised, of whose failure SLURM cancels the other."""
    failed = first is not None and first.state != "COMPLETED"
    if failed and first is not None and (record is None or not of_last_submission(run_dir, record)):
        words = f"its data were not prepared: job {first.id} ended {first.state}"
        words += _last_words(run_dir / "logs" / f"slurm-prepare-{first.id}.log")
        return Status(RunState.ENDED, words, record.number if record else None, _no_attempt(first))
    if record is None or not of_last_submission(run_dir, record):
        words = f"job {job.id} ended {job.state} before its agent began" if job else "its job is gone, without a word"
        logs = [run_dir / "logs" / f"slurm-{job_id}.log" for job_id in job_ids(run_dir)[:1]]
        return Status(RunState.ENDED, words + _last_words(*logs), record.number if record else None, _no_attempt(job))
    outcome, cause = record.outcome, record.cause or ""
    if outcome is None:
        down = read_down_nodes(run_dir)
        verdict = abandoned(record, read_stop(run_dir), lock.last_holder(run_dir), boot_id(), "another life")
        verdict = with_down_nodes(verdict, record.nodes, down)
        outcome, cause = verdict.outcome, verdict.cause
    its = job_of(record, job, first)
    if its is not None and its.state == "CANCELLED" and outcome not in (Outcome.FINISHED, Outcome.FATAL):
        outcome, cause = Outcome.STOPPED, f"job {its.id} was cancelled; {cause}".rstrip("; ")
    elif its is not None and its is first and its.state == "TIMEOUT":  # which its agent took for a preemption
        words = "reached its walltime before the data were tokenised: raise `prepare.walltime` in the site profile"
        outcome, cause = Outcome.WALLTIME, f"job {its.id} {words}"
    return Status(RunState.ENDED, cause, record.number, outcome)


def job_of(record: AttemptRecord, job: SlurmJob | None, first: SlurmJob | None) -> SlurmJob | None:
    """The job in which an attempt took place: `first` where the data could not be tokenised, which is an attempt."""
    return first if first is not None and record.generation.startswith(f"{first.id}.") else job


def has_begun(job: SlurmJob) -> bool:
    """Whether the job lives and no longer waits."""
    return job.is_alive and job.state not in BEFORE_IT_RUNS


def of_last_submission(run_dir: Path, record: AttemptRecord) -> bool:
    """Whether an attempt belongs to the last `submit` of the run."""
    given = read_submission(run_dir)
    return given is not None and record.is_of_submission(given.submitted)


def _no_attempt(job: SlurmJob | None) -> Outcome:
    if job is not None and job.state == "CANCELLED":
        return Outcome.STOPPED
    return Outcome.NODE_FAILURE if job is not None and job.state == "NODE_FAIL" else Outcome.CRASHED


def _last_words(*logs: Path) -> str:
    lines = [line for log in logs if log.is_file() for line in log.read_text(errors="replace").splitlines() if line]
    return f": {lines[-1]}" if lines else ""
