"""The heartbeat watch against clocks of its own, and what it makes of ranks and their stacks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.agent.monitor.hang_detector import HeartbeatWatch, Stall
from cluster.agent.monitor.rank_stacks import Rank, condition, dump_stacks, ranks_in, where_in
from tests.support.documents import typed_progress


def progress(heartbeat: float, state: str = "training", step: int = 12, attempt: int = 3) -> dict:
    return {"attempt": attempt, "state": state, "step": step, "heartbeat": heartbeat}


def watched(signs, hang: float | None = 60.0, start: float | None = 600.0) -> list[Stall | None]:
    """What the watch says to a series of progresses, one seen per second."""
    watch = HeartbeatWatch(3, hang, start)
    return [watch.look(typed_progress(sign), 1000.0 + second) for second, sign in enumerate(signs)]


def test_a_heartbeat_that_stands_still_for_the_limit_is_a_stall() -> None:
    said = watched([progress(5.0)] * 62)
    assert said[:60] == [None] * 60
    assert said[60] == Stall(60.0, "training", 12)
    assert said[61].words == "no heartbeat for 61 s at step 12"


def test_a_heartbeat_that_moves_is_life_wherever_the_wall_clock_jumps() -> None:
    assert not any(watched([progress(10**9 * (-1) ** second + second) for second in range(300)]))
    standing_then_back = [progress(5.0)] * 59 + [progress(4.0)] + [progress(4.0)] * 59
    assert not any(watched(standing_then_back))


@pytest.mark.parametrize("state", ["preparing", "starting", "loading", "first_step"])
def test_before_the_first_step_there_is_more_patience(state: str) -> None:
    said = watched([progress(5.0, state)] * 601)
    assert said[599] is None
    assert said[600].words == f"no heartbeat for 600 s in state {state}"


@pytest.mark.parametrize("sign", [None, progress(5.0, attempt=2)])
def test_without_a_sign_of_this_attempt_the_start_counts(sign) -> None:
    said = watched([sign] * 601)
    assert said[599] is None
    assert said[600].words == "no sign of the trainer for 600 s"


@pytest.mark.parametrize("state", ["saving", "evaluating", "stopped", "finished"])
def test_other_states_have_the_short_limit(state: str) -> None:
    assert watched([progress(5.0, state)] * 61)[60] is not None


def test_the_watch_can_be_turned_off() -> None:
    assert not any(watched([progress(5.0)] * 5000, hang=None))
    assert not any(watched([None] * 5000, start=None))


def test_an_agent_that_was_frozen_itself_does_not_blame_the_ranks() -> None:
    watch = HeartbeatWatch(3, 60.0, 600.0)
    assert watch.look(typed_progress(progress(5.0)), 0.0) is None
    assert watch.look(typed_progress(progress(5.0)), 10_000.0) is None  # the machine was suspended
    assert watch.look(typed_progress(progress(6.0)), 10_001.0) is None


FAULTHANDLER = """Fatal Python error: Aborted

Thread 0x00007f4cdd3226c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/queue.py", line 180 in get

Current thread 0x00007f4cde322740 (most recent call first):
  File "/lib/torch/distributed/distributed_c10d.py", line 2501 in all_reduce
  File "/lib/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/code/trainer/collectives.py", line 40 in agree
  File "/code/trainer/loop.py", line 88 in step

Extension modules: numpy
"""
PY_SPY = """Process 4242: python -m trainer train /runs/a
Python v3.11.7 (/usr/bin/python3.11)

Thread 4242 (active): "MainThread"
    read_rows (trainer/data/shards.py:51)
    step (trainer/loop.py:80)
Thread 4260 (idle): "Thread-1"
    all_reduce (torch/distributed/distributed_c10d.py:2501)
"""


@pytest.mark.parametrize(
    ("stacks", "words"),
    [
        (FAULTHANDLER, "waits in all_reduce"),
        (PY_SPY, "is in read_rows (shards.py:51)"),
        (PY_SPY.replace("read_rows", "Group.barrier"), "waits in barrier"),
        ("", ""),
        ("nothing", ""),
    ],
)
def test_where_the_main_thread_is(stacks: str, words: str) -> None:
    assert where_in(stacks) == words


PROGRAM = """
import faulthandler, signal, sys, time, threading
def barrier():
    print("ready", flush=True)
    time.sleep(600)
def feed():
    time.sleep(600)
threading.Thread(target=feed, daemon=True).start()
if "register" in sys.argv: faulthandler.register(signal.SIGQUIT, all_threads=True)
barrier()
"""


def start(tmp_path: Path, number: int, *arguments: str, faulthandler: str = "1") -> tuple[Rank, subprocess.Popen]:
    with open(tmp_path / f"rank-{number:05d}.log", "w") as log:
        environment = {**os.environ, "PYTHONFAULTHANDLER": faulthandler}
        command = [sys.executable, "-c", PROGRAM, *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    rank = Rank(number, process.pid, tmp_path)
    deadline = time.monotonic() + 20
    while "ready" not in rank.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    return rank, process


def test_stacks_are_taken_with_and_without_the_trainers_help(tmp_path: Path) -> None:
    helped, one = start(tmp_path, 0, "register", faulthandler="")
    alone, two = start(tmp_path, 1)
    mute, three = start(tmp_path, 2, faulthandler="")
    stopped, four = start(tmp_path, 3)
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        while condition(stopped.pid) != "is stopped (SIGSTOP)":
            time.sleep(0.01)
        began = time.monotonic()
        found = dump_stacks([helped, alone, mute, stopped])
        assert time.monotonic() - began < 4
        assert {number: where_in(stacks) for number, stacks in found.items()} == {
            0: "waits in barrier",
            1: "waits in barrier",
        }
        assert "in feed" in helped.stacks.read_text()
        assert "rank 2, process" in mute.stacks.read_text()
        assert "is stopped (SIGSTOP)" in stopped.stacks.read_text()
        assert helped.stacks.name == "stacks-rank-00000.txt"
        assert [one.poll(), three.poll(), four.poll()] == [None, None, None]
    finally:
        for process in (one, two, three, four):
            process.kill()
            process.wait()
    assert not list(tmp_path.glob("core*"))


def test_only_living_ranks_below_the_agent_count(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.pid").write_text("41")
    (tmp_path / "rank-00001.pid").write_text("42")
    (tmp_path / "rank-00002.pid").write_text("")
    assert ranks_in(tmp_path, [42, 43]) == [Rank(1, 42, tmp_path)]
    assert condition(2**22 + 1) == "has exited"
