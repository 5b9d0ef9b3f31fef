"""Ranks that stand still or outlive a dead one, under real torchrun."""

import os
import signal
import time

from agent_runs import NEVER, Run, lives, until

from cluster.agent.monitor.monitor import LINGER_SECONDS
from tests.support.documents import read_attempts, read_progress


def test_a_stopped_rank_is_a_hang_that_is_named_and_the_run_goes_on(run: Run) -> None:
    run.plan(["train"], steps=10**6, save_every=5, lockstep=True).launch(
        hang_seconds=2, start_seconds=60, restart={"backoff_seconds": 0.2}
    )
    agent = run.start()
    until(lambda: (read_progress(run.dir) or {}).get("step", 0) > 10, "some steps")
    pids = run.rank_pids()
    os.kill(pids[1], signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: run.record(0)["outcome"], "the hang to be found")
    assert time.monotonic() - stopped < 2 + 3 + 5, "the limit, the dump, and slack for a busy machine"
    assert not [pid for pid in pids if lives(pid)]
    record = run.record(0)
    assert record["outcome"] == "hang"
    assert record["cause"].startswith("train: no heartbeat for 2 s at step ")
    assert record["cause"].endswith("; rank 1 is stopped (SIGSTOP); rank 0 waits in all_reduce")
    assert [(item["kind"], item["line"], item["blames"]) for item in record["evidence"]] == [
        ("stuck_rank", "rank 1 is stopped (SIGSTOP)", "suspect")
    ]
    assert "taking stacks" in run.log("agent.log")
    assert "in all_reduce" in run.log("stacks-rank-00000.txt")
    assert "is stopped" in run.log("stacks-rank-00001.txt")
    assert record["decision"]["action"] == "restart"
    assert 2 <= record["phase_seconds"]["hang"] < record["seconds"]["train"]
    until(lambda: len(read_attempts(run.dir)) == 2, "the next attempt")
    until(lambda: (read_progress(run.dir) or {}).get("attempt") == 1, "its first step")
    (run.dir / "stop").touch()
    assert agent.wait(30) == 75
    assert run.record(1)["first_step"] == record["last_checkpoint_step"] > 0


def test_a_rank_that_never_says_a_word_is_found_by_the_start_limit(run: Run) -> None:
    run.plan(["train"], ranks=1, mute=True).launch(start_seconds=3, restart=NEVER)
    assert run.carry() == 3
    assert run.record()["outcome"] == "hang"
    assert run.record()["cause"].startswith("train: no sign of the trainer for 3 s")
    assert run.record()["phase_seconds"]["hang"] >= 3


def test_a_run_without_a_watch_is_left_alone(run: Run) -> None:
    run.plan(["train"], ranks=1, steps=2, step_seconds=1.5).launch(hang_seconds=None, start_seconds=0.5)
    assert run.carry() == 0


def test_ranks_that_wait_for_a_dead_one_do_not_cost_torchruns_thirty_seconds(run: Run) -> None:
    run.plan(["train"], steps=10**6, lockstep=True, deaf=True).launch(restart=NEVER)
    agent = run.start()
    pids = run.rank_pids()
    until(lambda: (read_progress(run.dir) or {}).get("step", 0) > 2, "some steps")
    os.kill(pids[1], signal.SIGKILL)
    died = time.monotonic()
    assert agent.wait(30) == 3
    assert LINGER_SECONDS <= time.monotonic() - died < LINGER_SECONDS + 8
    assert not lives(pids[0])
    assert "killed 1 rank that waited for a dead one" in run.log("agent.log")
    assert run.record()["cause"] == "train: rank 1 killed by SIGKILL"
