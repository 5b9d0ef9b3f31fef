"""Ctrl-C at every place where somebody waits: no traceback, exit code 130, and nothing goes on unsaid."""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_runs import ROOT, Run, lives, until

import cluster
from cluster.run.lock import holder
from launcher.interrupts import SIGNALS, Interrupted, defer_signals, exit_code_of, interruptible
from tests.support.documents import read_attempts, read_progress

COMMAND = [sys.executable, "-c", "from launcher.cli import main; main()"]
QUICKSTART = ROOT / "examples" / "quickstart" / "run.py"


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers back that a test replaces."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tuneyard(*words: object) -> subprocess.Popen[str]:
    line = [*COMMAND, *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> str:
    """What a command says that is interrupted, twice as impatient people do; it must leave with the right code."""
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in said + errors
    return errors


def trains(run: Run) -> bool:
    return (read_progress(run.dir) or {}).get("state") == "training"


def test_following_and_stopping_may_be_broken_off_and_the_run_is_stopped_all_the_same(run: Run) -> None:
    run.plan(["train"], ranks=1, steps=2000, step_seconds=0.3).launch(restart={"auto": False})
    follower = tuneyard("resume", run.dir)
    until(lambda: trains(run), "training")
    assert "The run goes on" in interrupted(follower)
    assert holder(run.dir) is not None
    asked = subprocess.run([*COMMAND, "stop", run.dir, "--no-wait"], capture_output=True, text=True)
    assert (asked.returncode, holder(run.dir) is not None) == (0, True), "--no-wait returns before the run has left"
    resumed = subprocess.run([*COMMAND, "resume", run.dir, "--detach"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert [record["outcome"] for record in read_attempts(run.dir)] == ["stopped", None], "resume waited for the stop"
    until(lambda: trains(run) and read_progress(run.dir)["attempt"] == 1, "training again")
    stopped = subprocess.run([*COMMAND, "stop", run.dir], capture_output=True, text=True)
    assert (stopped.returncode, holder(run.dir)) == (0, None), "stop returns when the run has left"
    assert "outcome: stopped" in stopped.stdout


def test_broken_off_while_it_waits_stop_says_that_the_run_stops(run: Run) -> None:
    run.plan(["prepare"], ranks=1, prepare_seconds=600)
    cluster.backend("local").submit(run.dir)
    os.kill(holder(run.dir).pid, signal.SIGSTOP)  # nobody reads the wish
    try:
        stopper = tuneyard("stop", run.dir)
        until(lambda: (run.dir / "stop").exists(), "the wish")
        time.sleep(0.3)
        assert "It will stop all the same" in interrupted(stopper, signal.SIGTERM)
    finally:
        os.kill(holder(run.dir).pid, signal.SIGCONT)


def test_a_run_interrupted_while_it_is_handed_over_has_no_agent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def took_over(run_dir: Path, pid: int, before: int) -> bool:
        run.pids = pid
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.local.backend._took_over", took_over)
    run.plan(["prepare"], prepare_seconds=600)
    with pytest.raises(KeyboardInterrupt):
        cluster.backend("local").submit(run.dir)
    assert not lives(run.pids)


def test_ctrl_c_in_the_quickstart_ends_what_trains(run: Run, monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    main = runpy.run_path(str(QUICKSTART))["main"]
    work = run.dir.parent / "work"
    run.dir = work / "runs" / "quickstart-1"
    run.dir.parent.mkdir(parents=True)
    run.plan(["train"], ranks=1, steps=2000, step_seconds=0.1)

    def trained(work: Path, seed: str) -> int:
        cluster.backend("local").submit(run.dir)
        until(lambda: trains(run), "training")
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "quickstart", trained)
    monkeypatch.setitem(main.__globals__, "TUNEYARD", Path(sys.executable).with_name("tuneyard"))
    monkeypatch.setattr("sys.argv", ["run.py", "--work", str(work)])
    assert main() == 130
    assert (holder(run.dir), run.record()["outcome"]) == (None, "stopped")
    assert not any(lives(pid) for pid in run.rank_pids(1))


def test_what_is_put_in_order_is_not_interrupted_again(handlers: None) -> None:
    order = []
    with pytest.raises(Interrupted) as first, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            order.append("done")
    assert (order, exit_code_of(first.value)) == (["done"], 143)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    until_over = threading.Event()
    bar = threading.Thread(target=until_over.wait)  # as a progress bar has one: signals may reach it instead
    bar.start()
    try:
        with pytest.raises(Interrupted), interruptible():
            with defer_signals():
                os.kill(os.getpid(), signal.SIGINT)
                order.append("held")
            order.append("never")
    finally:
        until_over.set()
    assert order == ["done", "held"]
