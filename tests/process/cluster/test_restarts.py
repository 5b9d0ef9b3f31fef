"""Restarting by the agent itself: real processes that crash, a policy with short waits, and people who interfere."""

import json
import os
import signal
import time

import pytest
from agent_runs import Run, until

import cluster
from cluster.run.lock import holder
from tests.support.documents import read_attempts

QUICK = {"backoff_seconds": 0.3}
SLOW = {"backoff_seconds": 300}


@pytest.fixture
def local() -> cluster.Backend:
    return cluster.backend("local")


def decisions(run: Run) -> list[tuple[str, str]]:
    return [(record["outcome"], record["decision"]["action"]) for record in read_attempts(run.dir)]


def test_a_run_that_crashes_twice_finishes_by_itself(run: Run) -> None:
    crashes = {"0": 7, "1": 12}
    run.plan(["prepare", "train", "export"], ranks=1, steps=14, save_every=5, raise_at=crashes).launch(restart=QUICK)
    assert run.carry() == 0
    assert decisions(run) == [("crashed", "restart"), ("crashed", "restart"), ("finished", "stop")]
    first, second, third = read_attempts(run.dir)
    assert [life["first_step"] for life in (first, second, third)] == [0, 5, 10]
    assert first["decision"]["wait_seconds"] == 0.3
    assert second["started"] - first["ended"] >= 0.3
    assert second["decision"]["wait_seconds"] == 0.6
    assert "restart in 0.3 s: crashed: going on from step 5" in run.log("agent.log")
    assert run.log("prepare.log", attempt=2).strip() == "prepare speaks"


def test_a_crash_loop_at_the_same_step_is_bounded_and_has_its_own_exit_code(run: Run) -> None:
    crashes = {str(attempt): 7 for attempt in range(100)}
    run.plan(["train"], ranks=1, steps=10**6, save_every=5, raise_at=crashes).launch(restart=QUICK)
    assert run.carry() == 3
    assert decisions(run) == [("crashed", "restart")] * 3 + [("crashed", "stop")]
    assert run.record()["decision"]["reason"].startswith(
        "attempts 1, 2, 3 all ended before a checkpoint beyond step 5; last causes: train: rank 0 exit code 1"
    )


def test_a_fatal_end_is_never_restarted(run: Run) -> None:
    run.plan(["train"], ranks=1, fatal_at=2).launch(restart=QUICK)
    assert run.carry() == 2
    assert decisions(run) == [("fatal", "stop")]
    assert run.record()["remedy"] == "a smaller micro-batch"


def test_an_agent_that_is_told_to_leave_while_it_waits_leaves_at_once(run: Run) -> None:
    run.plan(["export"], export_exit=1).launch(restart=SLOW)
    agent = run.start()
    until(lambda: (run.dir / "attempts.jsonl").exists() and run.record().get("decision"), "the decision")
    asked = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(5) == 75
    assert time.monotonic() - asked < 2
    assert decisions(run) == [("crashed", "restart")]  # its scheduler does it


def test_status_logs_and_cancel_while_the_agent_waits(run: Run, local: cluster.Backend) -> None:
    run.plan(["export"], export_exit=1).launch(restart=SLOW)
    local.submit(run.dir)
    until(lambda: run.record().get("decision"), "the decision")
    status = until(lambda: local.status(run.dir), "the status")
    assert (status.state, status.outcome) == ("running", None)
    assert status.reason.startswith("waiting ")
    assert "s before attempt 1 (crashed: going on from the beginning)" in status.reason
    assert local.wait(run.dir, timeout_seconds=0.2).state == "running"
    local.cancel(run.dir)
    assert holder(run.dir) is None
    done = local.status(run.dir)
    assert (done.state, done.attempt, done.outcome) == ("ended", 0, "crashed")
    assert run.record()["decision"]["action"] == "stop"
    assert run.record()["decision"]["reason"] == "stopped before it was restarted: tuneyard cancel"


def test_followed_logs_go_on_with_the_next_attempt(run: Run, local: cluster.Backend) -> None:
    run.plan(["train"], ranks=1, steps=10, raise_at={"0": 5}).launch(restart=QUICK)
    local.submit(run.dir)
    lines = list(local.logs(run.dir, follow=True))
    starts = [line for line in lines if "of support-1a2b: agent" in line]
    assert len(starts) == 2
    assert lines[-1].endswith(" finished")
    assert local.wait(run.dir, timeout_seconds=10).outcome == "finished"


def test_a_scheduler_that_starts_an_agent_again_after_the_end_changes_nothing(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("TUNEYARD_SUBMITTED", "1795000000.5")
    run.plan(["export"], export_exit=1).launch(restart={"backoff_seconds": 0})
    assert [run.carry(), run.carry()] == [3, 3]
    assert len(read_attempts(run.dir)) == 3
    monkeypatch.setenv("TUNEYARD_SUBMITTED", "1795000099.5")  # a person has submitted it again
    run.plan(["export"])
    assert run.carry() == 0
    assert [run.carry(), run.record()["attempt"]] == [0, 3]


def test_a_run_that_its_user_stopped_is_not_started_again_by_a_scheduler(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("TUNEYARD_SUBMITTED", "1795000000.5")
    run.plan(["prepare"], prepare_seconds=600)
    agent = run.start()
    run.pid_in("prepare.pid")
    agent.send_signal(signal.SIGINT)
    assert agent.wait(10) == 75
    assert run.carry() == 3
    assert decisions(run) == [("stopped", "stop")]


def test_agents_that_die_without_a_word_are_bounded_too(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("TUNEYARD_SUBMITTED", "1795000000.5")
    run.plan(["prepare"], prepare_seconds=600)
    for _ in range(3):
        (run.dir / "prepare.pid").unlink(missing_ok=True)
        agent = run.start()
        run.pid_in("prepare.pid")
        agent.kill()
        agent.wait()
    assert run.carry() == 3
    assert [record["outcome"] for record in read_attempts(run.dir)] == ["crashed"] * 3


def test_a_full_storage_is_named_with_its_remedy(run: Run) -> None:
    run.plan(["train"], ranks=1, steps=10, raise_at={"0": 3}, says="[Errno 28] No space left on device").launch(
        restart=QUICK
    )
    assert run.carry() == 0
    record = run.record(0)
    assert record["outcome"] == "crashed"
    assert "the storage is full or broken: OSError: [Errno 28] No space left on device" in record["cause"]
    assert record["remedy"] == "free space or raise the quota where the run directory lies"
    assert record["evidence"] == [
        {
            "kind": "storage",
            "node": os.uname().nodename,
            "line": "OSError: [Errno 28] No space left on device",
            "blames": "storage",
        }
    ]
    json.dumps(record)


def test_a_machine_that_fails_its_checks_is_tried_three_times_and_no_phase_is_started(run: Run) -> None:
    run.plan(["prepare"]).launch(restart=QUICK, health={"checks": [["sh", "-c", "echo link 3 is down; exit 1"]]})
    assert run.carry() == 3
    records = read_attempts(run.dir)
    assert [record["outcome"] for record in records] == ["node_failure"] * 3
    assert records[-1]["cause"] == "health: sh: link 3 is down"
    assert records[-1]["exit_codes"] == {}
    assert records[-1]["health"][-1] == {"name": "sh", "ok": False, "words": "link 3 is down", "blames": "node"}
    (excluded,) = records[0]["decision"]["exclude"]
    assert (excluded["node"], excluded["evidence"]) == (os.uname().nodename, "sh: link 3 is down")
    assert "health: sh FAILED: link 3 is down" in run.log("agent.log")


def test_where_a_scheduler_can_move_the_run_an_excluded_node_is_left(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("TUNEYARD_SCHEDULER", "slurm")
    run.plan(["prepare"]).launch(restart=QUICK, health={"checks": [["false"]]})
    assert run.carry() == 75
    assert decisions(run) == [("node_failure", "restart")]
