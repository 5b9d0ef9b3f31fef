"""The local backend: detached agents, watched and cancelled through the run directory alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from agent_runs import Run, lives, until

import cluster
from cluster import ClusterError
from cluster.process_identity import signal_process, start_ticks
from cluster.run.lock import AgentLock, holder, last_holder
from rundir.errors import RunDirError


@pytest.fixture
def local() -> cluster.Backend:
    return cluster.backend("local")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_run_is_submitted_watched_and_waited_for(run: Run, local: cluster.Backend) -> None:
    run.plan(["prepare", "train"], steps=20)
    assert local.status(run.dir).state == "none"
    handle = local.submit(run.dir)
    assert (handle.backend, handle.run_dir) == ("local", run.dir)
    assert local.status(run.dir).state == "running"
    assert local.wait(run.dir, timeout_seconds=0.1).state == "running"
    with pytest.raises(ClusterError, match="already running"):
        local.submit(run.dir)
    lines = list(local.logs(run.dir, follow=True))
    assert "[prepare] prepare speaks" in lines
    assert "[rank-00000] train speaks" in lines
    assert lines[-1].startswith("[agent] ")
    done = local.wait(run.dir, timeout_seconds=30)
    assert (done.state, done.attempt, done.outcome) == ("ended", 0, "finished")
    assert list(local.logs(run.dir, rank=1)) == ["train speaks"]
    local.cancel(run.dir)  # nothing to cancel: nothing happens
    assert local.status(run.dir) == done


def test_the_agent_is_detached_from_whoever_submitted(run: Run, local: cluster.Backend) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    words = "import sys, pathlib, cluster; cluster.backend('local').submit(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", words, str(run.dir)], check=True, start_new_session=True)
    agent = holder(run.dir).pid
    assert os.getsid(agent) == agent
    assert local.status(run.dir).state == "running"


def test_cancel_ends_the_run_as_the_users_wish(run: Run, local: cluster.Backend) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    local.submit(run.dir)
    prepare = run.pid_in("prepare.pid")
    local.cancel(run.dir)
    assert not lives(prepare)
    assert run.record()["cause"] == "tuneyard cancel during prepare"
    status = local.status(run.dir)
    assert (status.state, status.outcome) == ("ended", "stopped")


def test_cancel_kills_an_agent_that_does_not_answer(
    run: Run, local: cluster.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.local.backend._cancel_seconds", lambda _: 0.5)
    run.plan(["prepare"], prepare_seconds=600)
    local.submit(run.dir)
    prepare = run.pid_in("prepare.pid")
    os.kill(holder(run.dir).pid, signal.SIGSTOP)
    local.cancel(run.dir)
    until(lambda: not lives(prepare), "the phase to die with its agent", seconds=5)
    assert run.record()["outcome"] == "stopped"
    assert holder(run.dir) is None


def test_a_killed_agent_is_seen_at_once_and_its_record_is_closed_by_the_next(run: Run, local: cluster.Backend) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    local.submit(run.dir)
    os.kill(holder(run.dir).pid, signal.SIGKILL)
    status = local.wait(run.dir, timeout_seconds=5)
    assert (status.state, status.outcome, status.reason) == ("ended", "crashed", "the agent was killed")
    run.plan(["prepare"])
    local.submit(run.dir)
    assert local.wait(run.dir, timeout_seconds=10).attempt == 1
    assert run.record(0)["outcome"] == "crashed"


def test_a_process_that_got_a_dead_agents_number_is_neither_taken_for_it_nor_signalled(
    run: Run, local: cluster.Backend, sleeper: subprocess.Popen[bytes]
) -> None:
    run.plan(["prepare"])
    local.submit(run.dir)
    local.wait(run.dir, timeout_seconds=10)
    earlier = start_ticks(sleeper.pid) - 1
    forged = last_holder(run.dir).changed(pid=sleeper.pid, start_ticks=earlier)
    (run.dir / "agent.lock").write_text(json.dumps(forged.to_json()))
    assert local.status(run.dir).state == "ended"
    local.cancel(run.dir)
    with AgentLock(run.dir):
        (run.dir / "agent.lock").write_text(json.dumps(forged.to_json()))
        assert not signal_process(holder(run.dir), signal.SIGKILL)
    assert sleeper.poll() is None


def test_an_agent_that_dies_at_once_is_quoted(
    run: Run, local: cluster.Backend, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    run.plan(["prepare"])
    (tmp_path / "json.py").write_text("raise SystemExit('no json today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ClusterError, match="died at once: no json today"):
        local.submit(run.dir)
    assert local.status(run.dir).state == "none"


def test_what_cannot_be_submitted_says_why(run: Run, local: cluster.Backend) -> None:
    run.dir.mkdir()
    with pytest.raises(RunDirError, match=r"plan\.json: no such file"):
        local.submit(run.dir)
    run.plan(["prepare"])
    plan = json.loads((run.dir / "plan.json").read_text())
    plan["launch"]["nodes"] = 2
    (run.dir / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ClusterError, match="needs 2 nodes"):
        local.submit(run.dir)


def test_of_two_submits_at_the_same_moment_one_wins(run: Run) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    words = (
        "import sys, pathlib, cluster\n"
        "try: cluster.backend('local').submit(pathlib.Path(sys.argv[1])); print('won')\n"
        "except cluster.ClusterError as error: print(error)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", words, str(run.dir)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert said[1] == "won"
    assert "already running" in said[0]
    assert run.record()["attempt"] == 0


def test_following_a_run_that_is_being_stopped_ends_with_it(run: Run, local: cluster.Backend) -> None:
    run.plan(["prepare"], prepare_seconds=600)
    local.submit(run.dir)
    lines = local.logs(run.dir, follow=True)
    assert "attempt 0 of support-1a2b" in next(lines)
    started = time.monotonic()
    (run.dir / "stop").touch()
    last_words = [line for line in lines if line.startswith("[agent]")][-1]
    assert "stopped: stop file" in last_words  # before prepare or during it
    assert time.monotonic() - started < 120, "it must not wait for the 600 s of the phase"
