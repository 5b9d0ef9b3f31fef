"""Where a run is whose data are tokenised in a job of its own, by what the scheduler says of its two jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.slurm.backend import SlurmBackend
from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.submit.submission_record import Submission, write_submission

FIRST, MAIN = "11", "12"
SUBMITTED = 1000.0


class Told(Scheduler):
    """A scheduler that says of jobs what it is told, and counts how often it is asked."""

    def __init__(self, **states: str) -> None:
        super().__init__(retry_seconds=())
        self.states = states
        self.asked: list[str] = []

    def job(self, job_id: str) -> SlurmJob | None:
        self.asked.append(job_id)
        state = self.states.get(f"j{job_id}")
        return SlurmJob(id=job_id, state=state, nodes="n1") if state else None


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "plan.json").write_text('{"trainer": {}, "launch": {}}')
    write_submission(tmp_path, Submission(MAIN, SUBMITTED, FIRST))
    return tmp_path


def attempt_of(job: str, outcome: str, run_dir: Path) -> None:
    record: dict[str, Any] = {"attempt": 0, "generation": f"{job}.0", "submitted": SUBMITTED, "outcome": outcome}
    (run_dir / "attempts.jsonl").write_text(json.dumps({**record, "cause": "prepare went wrong"}) + "\n")


def test_a_job_that_tokenises_alone_is_a_living_run(run_dir: Path) -> None:
    """The job with the GPUs was ended by hand meanwhile."""
    backend = SlurmBackend(Told(j11="RUNNING", j12="CANCELLED"))
    status = backend.status(run_dir)
    assert (status.state, status.outcome) == ("running", None) and f"job {FIRST} tokenises" in status.reason
    with pytest.raises(ClusterError, match=f"is job {FIRST} already, RUNNING"):
        backend.submit(run_dir)


def test_why_the_data_were_not_prepared_is_said_in_its_jobs_last_words(run_dir: Path) -> None:
    (run_dir / "logs" / f"slurm-prepare-{FIRST}.log").write_text("loading modules\ncuda/12.4: no such module\n")
    status = SlurmBackend(Told(j11="FAILED", j12="CANCELLED")).status(run_dir)
    assert (status.state, status.outcome) == ("ended", "crashed")
    assert status.reason.endswith(": cuda/12.4: no such module")


@pytest.mark.parametrize(("first", "outcome"), [("FAILED", "crashed"), ("CANCELLED", "stopped")])
def test_what_ended_the_preparation_is_what_ended_the_run(run_dir: Path, first: str, outcome: str) -> None:
    """SLURM cancels the job with the GPUs then, which is nobody's wish."""
    attempt_of(FIRST, "crashed", run_dir)
    backend = SlurmBackend(Told(j11=first, j12="CANCELLED"))
    assert backend.status(run_dir).outcome == outcome
    backend._note_cancelled(run_dir)
    assert json.loads((run_dir / "attempts.jsonl").read_text().splitlines()[-1])["outcome"] == outcome


def test_a_preparation_that_had_too_little_time_says_so(run_dir: Path) -> None:
    attempt_of(FIRST, "preempted", run_dir)
    status = SlurmBackend(Told(j11="TIMEOUT", j12="CANCELLED")).status(run_dir)
    assert status.outcome == "walltime" and "prepare.walltime" in status.reason


def test_a_run_that_trains_asks_for_its_own_job_alone(run_dir: Path) -> None:
    attempt_of(MAIN, "", run_dir)
    told = Told(j12="RUNNING")
    SlurmBackend(told).status(run_dir)
    assert told.asked == [MAIN]
