"""What the batch script is told to do when its agents have gone, and which jobs a run has had."""

import json
from pathlib import Path

import pytest

from cluster.slurm.job.post_job import answer, main
from cluster.slurm.submit.submission_record import Submission, job_ids, read_submission, write_submission
from tests.support.documents import put_attempt, read_attempts

SUBMITTED = "1795000000.500"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEYARD_SUBMITTED", SUBMITTED)
    monkeypatch.setenv("TUNEYARD_GENERATION", "")  # `main` sets it; this puts it back
    launch = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 10}
    (tmp_path / "plan.json").write_text(json.dumps({"launch": {**launch, "phases": ["train"]}}))
    return tmp_path


def record(outcome: str, action: str, generation: str = "7.0", exclude: tuple[str, ...] = ()) -> dict:
    nodes = [{"node": node, "evidence": "", "until": 1.0} for node in exclude]
    decision = {"action": action, "reason": "", "wait_seconds": 0.0, "exclude": nodes}
    facts = {"attempt": 0, "nodes": ["n1"], "submitted": float(SUBMITTED), "ended": 1795000100.0}
    return {**facts, "outcome": outcome, "generation": generation, "decision": decision}


@pytest.mark.parametrize(
    ("outcome", "action", "exclude", "said"),
    [
        ("finished", "stop", (), "leave 0"),
        ("stopped", "stop", (), "leave 75"),
        ("fatal", "stop", (), "leave 2"),
        ("crashed", "stop", (), "leave 3"),
        ("preempted", "restart", (), "again 75"),
        ("walltime", "restart", (), "again 75"),
        ("node_failure", "restart", ("n2", "n3"), "again 75 n2,n3"),
    ],
)
def test_the_records_decision_is_carried_out(run_dir: Path, outcome, action, exclude, said) -> None:
    put_attempt(run_dir, record(outcome, action, exclude=exclude))
    assert answer(run_dir, "7.0", warned=False) == said


def test_a_life_without_an_attempt_is_started_again_only_when_it_was_warned(run_dir: Path) -> None:
    assert answer(run_dir, "7.0", warned=False) == "leave 1", "an agent that cannot start must not do so for ever"
    assert answer(run_dir, "7.0", warned=True) == "again 75"
    put_attempt(run_dir, record("finished", "stop", generation="7.0"))
    assert answer(run_dir, "7.1", warned=True) == "leave 0", "a requeue that came too late"


def test_an_agent_that_was_killed_is_closed_and_judged(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = record("", "", "7.0") | {"outcome": None, "started": 1795000050.0, "ended": None}
    del opened["decision"]
    put_attempt(run_dir, opened)
    assert main([str(run_dir), "7.0", "none"]) == 0
    assert capsys.readouterr().out == "again 75\n"
    (closed,) = read_attempts(run_dir)
    assert (closed["outcome"], closed["decision"]["action"]) == ("node_failure", "restart")


def test_a_run_directory_that_cannot_be_used_leaves_the_job_alone(tmp_path: Path, capsys) -> None:
    main([str(tmp_path / "gone"), "7.0", "none"])
    assert capsys.readouterr().out == "leave 1\n"


def test_the_jobs_of_the_last_submission_newest_first(tmp_path: Path) -> None:
    assert (read_submission(tmp_path), job_ids(tmp_path)) == (None, [])
    (tmp_path / "logs").mkdir()
    lives = "5 0 1795000000\n7 0 1795000200\n8 - 1795000201\nnonsense\n8 0 1795000300\n9 - 1795000301\n"
    (tmp_path / "logs" / "slurm-jobs").write_text(lives)
    write_submission(tmp_path, Submission("7", 1795000199.4))
    assert read_submission(tmp_path) == Submission("7", 1795000199.4)
    assert job_ids(tmp_path) == ["9", "8", "7"]
