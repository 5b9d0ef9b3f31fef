"""Following a run over its restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import Outcome, Status
from launcher.cli import run as main
from launcher.cli._follow import (
    follow,
    new_restarts,
    next_step,
    restart_message,
    seconds_left,
)
from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from launcher.runs.directory import new_run_dir, write_run
from rundir.errors import EXIT_RUN_FAILED
from rundir.quantities import rounded_duration
from rundir.states import RunState
from tests.support.documents import typed, typed_progress


def ended(attempt: int, outcome: str = "crashed", wait: float = 10.0, action: str = "restart") -> dict[str, Any]:
    decision = {"action": action, "reason": "", "wait_seconds": wait, "exclude": []}
    return {"attempt": attempt, "outcome": outcome, "last_step": 12, "cause": "rank 1 died\nmore", "decision": decision}


def test_words_about_a_restart() -> None:
    assert restart_message(*typed([ended(1)])) == "attempt 1 crashed at step 12 (rank 1 died); attempt 2 starts in 10 s"
    early = ended(0, "node_failure", 0.0) | {"last_step": None, "cause": None}
    assert restart_message(*typed([early])) == "attempt 0 lost its node; attempt 1 starts"
    assert len({outcome.ending for outcome in Outcome}) == len(Outcome)
    assert {outcome.exit_code for outcome in Outcome} == {0, 5, 75}


def test_a_restart_is_said_once_and_only_when_it_comes() -> None:
    told: set[int] = set()
    assert new_restarts(typed([{"attempt": 0, "outcome": None}]), told) == []
    assert [record.number for record in new_restarts(typed([ended(0)]), told)] == [0]
    assert new_restarts(typed([ended(0), {"attempt": 1, "outcome": None}]), told) == []
    preempted = [ended(0), ended(1, "preempted", 0.0)]
    assert new_restarts(typed(preempted), told) == [], "perhaps on another machine, perhaps never"
    later = [*preempted, {"attempt": 2, "outcome": None}]
    assert [record.number for record in new_restarts(typed(later), told)] == [1]
    assert new_restarts(typed([*later[:2], ended(2, "fatal", 0.0, "stop")]), told) == []


def test_following_goes_on_into_the_next_attempt(write_job: Callable[..., Path], cpu_machine, tmp_path, monkeypatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    job = write_job()
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    write_run(run_dir, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())
    scenes = [
        (Status(RunState.RUNNING, "training", 0), [{"attempt": 0, "outcome": None}], 0),
        (Status(RunState.RUNNING, "waiting"), [ended(0, wait=2.0)], 0),
        (Status(RunState.RUNNING, "training", 1), [ended(0, wait=2.0), {"attempt": 1, "outcome": None}], 1),
        (Status(RunState.ENDED, "", 1, Outcome.FINISHED), [ended(0, wait=2.0), ended(1, "finished", 0.0, "stop")], 1),
    ]
    left = iter(scenes)

    def status(self: Any, run_dir: Path) -> Status:
        found, records, attempt = next(left)
        (run_dir / "attempts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        progress = {"state": "training", "attempt": attempt, "step": 13 * attempt, "max_steps": 20}
        (run_dir / "progress.json").write_text(json.dumps(progress))
        return found

    monkeypatch.setattr("cluster.local.backend.LocalBackend.status", status)
    monkeypatch.setattr("launcher.cli._follow.POLL_SECONDS", 0)
    assert follow(run_dir) == 0
    shown = capsys.readouterr().out
    assert "attempt 0 crashed at step 12 (rank 1 died); attempt 1 starts in 2 s\n" in shown
    assert shown.index("attempt 1 starts") < shown.index("13/20 steps")
    assert "outcome: finished" in shown


def test_tokenising_in_a_job_of_its_own_has_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"launch": {"backend": "local"}}))
    phase = {"phase": "tokenising", "done": 30, "total": 120, "unit": "MB", "time": time.time()}
    (tmp_path / "phase.json").write_text(json.dumps(phase))
    left = iter(
        [Status(RunState.RUNNING, "job 2 waits for its data"), Status(RunState.ENDED, "", None, Outcome.STOPPED)]
    )
    monkeypatch.setattr("cluster.local.backend.LocalBackend.status", lambda *_: next(left))
    monkeypatch.setattr("launcher.cli._follow.POLL_SECONDS", 0)
    assert follow(tmp_path) == 75
    assert "30/120 MB" in capsys.readouterr().out


def test_a_resume_that_is_interrupted_while_it_is_handed_over_takes_it_back(
    write_job: Callable[..., Path], cpu_machine, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a scheduler was just taking when Ctrl-C came is known to it afterwards."""
    job, taken_back = write_job(), []
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    write_run(run_dir, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())

    def submit(self: Any, run_dir: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.cli.resume.require_trainer", lambda: None)
    monkeypatch.setattr("cluster.local.backend.LocalBackend.submit", submit)
    monkeypatch.setattr("cluster.local.backend.LocalBackend.cancel", lambda self, run_dir: taken_back.append(run_dir))
    assert main(["resume", str(run_dir)]) == 130
    assert taken_back == [run_dir] and (run_dir / "plan.json").is_file()
    assert "Interrupted before the start" in capsys.readouterr().err


def test_after_a_fatal_end_one_may_go_on_with_a_changed_job(tmp_path: Path) -> None:
    assert "tuneyard resume" in next_step(tmp_path, Outcome.FATAL) and "--job JOB" in next_step(tmp_path, Outcome.FATAL)


@pytest.mark.parametrize(
    ("facts", "seconds", "words"),
    [
        ({"step": 100, "max_steps": 400, "tokens": 200_000, "tokens_per_second": 1000.0}, 600, "10.0 min"),
        ({"step": 399, "max_steps": 400, "tokens": 399_000, "tokens_per_second": 100.0}, 10, "10 s"),
        ({"step": 1, "max_steps": 1001, "tokens": 2000, "tokens_per_second": 100.0}, 20_000, "5.6 h"),
    ],
)
def test_what_is_left_follows_from_steps_and_speed(facts: dict[str, float], seconds: float, words: str) -> None:
    left = seconds_left(typed_progress(facts))
    assert left == seconds
    assert rounded_duration(left) == words


def test_nothing_is_said_to_be_left_before_there_is_a_speed() -> None:
    assert seconds_left(typed_progress({"step": 0, "max_steps": 400})) is None
    assert seconds_left(typed_progress({"step": 5, "max_steps": 400, "tokens": 100, "tokens_per_second": 0})) is None


def test_a_part_that_failed_after_training_is_said_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "quick"
    run_dir.mkdir()
    (run_dir / "plan.json").write_text(json.dumps({"launch": {"backend": "local"}}))
    bad = {"ok": False, "message": "No space left on device", "remedy": "free space", "time": 2.0}
    (run_dir / "finishing.json").write_text(
        json.dumps({"held_out": bad, "export": bad, "evaluate": bad | {"ok": True}})
    )
    monkeypatch.setattr(
        "cluster.local.backend.LocalBackend.status", lambda *_: Status(RunState.ENDED, "", 0, Outcome.FINISHED)
    )

    assert follow(run_dir) == EXIT_RUN_FAILED
    shown = capsys.readouterr().out
    assert "outcome: finished" in shown and shown.count("No space left on device") == 2
    assert f"Next: tuneyard evaluate {run_dir} --held-out, then tuneyard export {run_dir}; the checkpoints" in shown
    assert follow(run_dir, as_json=True) == EXIT_RUN_FAILED
    told = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in told["failed_parts"]] == ["held_out", "export"]
    assert main(["resume", str(run_dir)]) == 2
    assert f"tuneyard export {run_dir} tries it again" in capsys.readouterr().err
    assert "evaluate" not in next_step(run_dir, Outcome.CRASHED), "what an earlier attempt noted is not asked for"

    elsewhere = {"mirrored": True, "path": "/claim/runs/quick", "namespace": "ml"}
    (run_dir / "kubernetes.json").write_text(json.dumps(elsewhere))
    assert "in a pod that mounts the claim for runs, tuneyard evaluate /claim/runs/quick --held-out" in next_step(
        run_dir, Outcome.FINISHED
    )
    (run_dir / "kubernetes.json").unlink()
    (run_dir / "finishing.json").write_text(json.dumps({"export": bad | {"ok": True}}))
    (run_dir / "report.html").unlink()
    (run_dir / "report.html").mkdir()  # which no report can replace
    assert follow(run_dir) == 0
    told = capsys.readouterr()
    assert "outcome: finished" in told.out and "the model is in" in told.out
    assert "no report: " in told.err and "report.html: cannot be written" in told.err
