"""The local backend: the agent as a detached process on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import lock, rundir
from cluster.agent.attempt import close_abandoned
from cluster.agent.launch import Launch
from cluster.agent.outcome import abandoned
from cluster.agent.phases import TERM_TO_KILL_SECONDS
from cluster.agent.restarts import SUBMITTED
from cluster.contract import Backend, ClusterError, Handle, Status
from cluster.logs import read_logs
from cluster.policy import RESTART
from cluster.processes import boot_id, is_here, signal_process
from rundir.quantities import count

SPAWN_LOG = "agent-spawn.log"
_START_SECONDS = 30.0
_CLOSING_SECONDS = 10.0
_POLL_SECONDS = 0.05
_CODE = Path(__file__).parents[1]


class LocalBackend(Backend):
    """Runs on the machine that submits. Nothing is kept but the run directory and the lock in it."""

    name = "local"

    def submit(self, run_dir: Path) -> Handle:
        """Starts an agent, and returns when it has taken the run over."""
        run_dir = run_dir.resolve()
        launch = Launch.from_plan(rundir.read_plan(run_dir))
        if launch.nodes != 1:
            raise ClusterError(
                f"the plan needs {count(launch.nodes, 'node')}, and this is one machine",
                "submit it to SLURM or Kubernetes, or set resources.nodes to 1",
            )
        if (who := lock.holder(run_dir)) is not None:
            raise lock.LockHeldError(*lock.already_running(run_dir, who))
        before = rundir.next_attempt(run_dir)
        agent, words_from = _spawn(run_dir)
        try:
            _wait_for_takeover(run_dir, agent, before, words_from)
        except BaseException:  # Ctrl-C, too: an agent that nobody heard of must not train
            agent.kill()
            agent.wait()
            raise
        return Handle(self.name, str(agent.pid), run_dir)

    def status(self, run_dir: Path) -> Status:
        """From the lock, which tells who lives, and the newest record."""
        who = lock.holder(run_dir)  # before the records: an agent writes its outcome before it lets go
        records = rundir.read_attempts(run_dir)
        record = records[-1] if records else None
        if who is not None:
            return _running(run_dir, record)
        if record is None:
            return Status("none", "not submitted yet")
        if record.get("outcome") is None:
            verdict = abandoned(record, rundir.read_stop(run_dir), lock.last_holder(run_dir), boot_id())
            return Status("ended", verdict.cause, record["attempt"], verdict.outcome.value)
        return Status("ended", record.get("cause") or "", record["attempt"], record["outcome"])

    def logs(
        self, run_dir: Path, *, rank: int | None = None, attempt: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Out of the run directory."""
        return read_logs(run_dir, rank, attempt, follow, lambda: lock.holder(run_dir) is not None)

    def cancel(self, run_dir: Path) -> None:
        """Asks the agent to end the run as the user's wish; kills it when the grace period is over.

        Does nothing when the run is not alive. The ranks of a killed agent die with it.
        """
        who = lock.holder(run_dir)
        if who is None:
            return
        if not is_here(who):
            raise ClusterError(
                f"{run_dir.name} runs on {who.get('host', 'another machine')}", "cancel it there, or stop it"
            )
        rundir.write_stop(run_dir, "stopped", "tuneyard cancel")
        signal_process(who, signal.SIGINT)
        if not _wait_until_free(run_dir, _cancel_seconds(run_dir)):
            signal_process(who, signal.SIGKILL)
            if not _wait_until_free(run_dir, _CLOSING_SECONDS):
                raise ClusterError(f"process {who.get('pid')} of {run_dir.name} cannot be killed")
        _close_if_open(run_dir)

    def wait(self, run_dir: Path, timeout_seconds: float | None = None) -> Status:
        """Polls the lock."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (status := self.status(run_dir)).state in ("queued", "running"):
            if deadline is not None and time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        return status


def _running(run_dir: Path, record: dict[str, Any] | None) -> Status:
    if record is None or record.get("outcome") is not None:
        return Status("running", _between_attempts(record))
    progress = rundir.read_progress(run_dir) or {}
    if progress.get("attempt") != record["attempt"]:
        return Status("running", "no sign of the trainer yet", record["attempt"])
    return Status("running", str(progress.get("state", "")), record["attempt"])


def _between_attempts(record: dict[str, Any] | None) -> str:
    """What a living agent without an open attempt is about to do."""
    decision = (record or {}).get("decision") or {}
    if record is None or decision.get("action") != RESTART:
        return "the agent is starting"
    left = (record.get("ended") or 0.0) + decision.get("wait_seconds", 0.0) - time.time()
    return f"waiting {max(0.0, left):.0f} s before attempt {record['attempt'] + 1} ({decision.get('reason')})"


def _spawn(run_dir: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Starts an agent that outlives us; also where in the spawn log its words begin."""
    paths = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    environment = {
        "PYTHONPATH": os.pathsep.join([*paths, str(_CODE)]),
        "PYTHONSAFEPATH": "1",
        SUBMITTED: f"{time.time():.3f}",
    }
    log_path = run_dir / "logs" / SPAWN_LOG
    try:
        log_path.parent.mkdir(exist_ok=True)
        log = open(log_path, "ab")  # noqa: SIM115
    except OSError as error:
        raise ClusterError(f"{log_path}: cannot be written: {error.strerror}") from error
    with log:
        words_from = log.tell()
        agent = subprocess.Popen(
            [sys.executable, "-m", "cluster.agent", str(run_dir)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return agent, words_from


def _wait_for_takeover(run_dir: Path, agent: subprocess.Popen[bytes], before: int, words_from: int) -> None:
    """Returns when the agent has opened its attempt; raises with its words when it died before."""
    deadline = time.monotonic() + _START_SECONDS
    while not _took_over(run_dir, agent.pid, before):
        if agent.poll() is not None and not _took_over(run_dir, agent.pid, before):
            raise ClusterError("the agent died at once: " + _words(run_dir, words_from))
        if time.monotonic() > deadline:
            raise ClusterError(f"the agent did not start within {_START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _took_over(run_dir: Path, pid: int, before: int) -> bool:
    who = lock.last_holder(run_dir) or {}
    return who.get("pid") == pid and rundir.next_attempt(run_dir) > before


def _words(run_dir: Path, start: int) -> str:
    text = (run_dir / "logs" / SPAWN_LOG).read_bytes()[start:].decode(errors="replace").strip()
    return text or "without a word"


def _cancel_seconds(run_dir: Path) -> float:
    grace_seconds = Launch.from_plan(rundir.read_plan(run_dir)).grace_seconds
    return grace_seconds + TERM_TO_KILL_SECONDS + _CLOSING_SECONDS


def _wait_until_free(run_dir: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while lock.holder(run_dir) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _close_if_open(run_dir: Path) -> None:
    with contextlib.suppress(lock.LockHeldError), lock.AgentLock(run_dir) as held:
        close_abandoned(run_dir, held.previous)
