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

from cluster.agent.attempt.record import close_abandoned
from cluster.agent.attempt.restart import SUBMITTED
from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS
from cluster.agent.verdict.outcome import abandoned
from cluster.contract import Backend, Handle, Status
from cluster.errors import ClusterError
from cluster.process_identity import boot_id, signal_process
from cluster.run import lock
from cluster.run.logs import read_logs
from rundir.attempts import AttemptRecord, newest_attempt, next_attempt
from rundir.outcome import StopReason
from rundir.plan import read_launch
from rundir.progress import read_progress
from rundir.quantities import count
from rundir.states import RunState
from rundir.stop import read_stop, write_stop

SPAWN_LOG = "agent-spawn.log"
_START_SECONDS = 30.0
_CLOSING_SECONDS = 10.0
_POLL_SECONDS = 0.05
_CODE = Path(__file__).parents[2]


class LocalBackend(Backend):
    """Runs on the machine that submits. Nothing is kept but the run directory and the lock in it."""

    name = "local"

    def submit(self, run_dir: Path) -> Handle:
        """Starts an agent, and returns when it has taken the run over."""
        run_dir = run_dir.resolve()
        launch = read_launch(run_dir)
        if launch.nodes != 1:
            raise ClusterError(
                f"the plan needs {count(launch.nodes, 'node')}, and this is one machine",
                "submit it to SLURM or Kubernetes, or set resources.nodes to 1",
            )
        if (who := lock.holder(run_dir)) is not None:
            raise lock.LockHeldError(*lock.already_running(run_dir, who))
        before = next_attempt(run_dir)
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
        record = newest_attempt(run_dir)
        if who is not None:
            return _running(run_dir, record)
        if record is None:
            return Status(RunState.NONE, "not submitted yet")
        if record.outcome is None:
            verdict = abandoned(record, read_stop(run_dir), lock.last_holder(run_dir), boot_id())
            return Status(RunState.ENDED, verdict.cause, record.number, verdict.outcome)
        return Status(RunState.ENDED, record.cause or "", record.number, record.outcome)

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
        if not who.is_here:
            raise ClusterError(f"{run_dir.name} runs on {who.host or 'another machine'}", "cancel it there, or stop it")
        write_stop(run_dir, StopReason.STOPPED, "tuneyard cancel")
        signal_process(who, signal.SIGINT)
        if not _wait_until_free(run_dir, _cancel_seconds(run_dir)):
            signal_process(who, signal.SIGKILL)
            if not _wait_until_free(run_dir, _CLOSING_SECONDS):
                raise ClusterError(f"process {who.pid} of {run_dir.name} cannot be killed")
        _close_if_open(run_dir)

    def wait(self, run_dir: Path, timeout_seconds: float | None = None) -> Status:
        """Polls the lock."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (status := self.status(run_dir)).state.is_alive:
            if deadline is not None and time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        return status


def _running(run_dir: Path, record: AttemptRecord | None) -> Status:
    if record is None or not record.is_open:
        return Status(RunState.RUNNING, _between_attempts(record))
    progress = read_progress(run_dir).of_attempt(record.number)
    return Status(RunState.RUNNING, progress.state if progress else "no sign of the trainer yet", record.number)


def _between_attempts(record: AttemptRecord | None) -> str:
    """What a living agent without an open attempt is about to do."""
    if record is None or not record.decision.restarts:
        return "the agent is starting"
    left = (record.ended or 0.0) + record.decision.wait_seconds - time.time()
    return f"waiting {max(0.0, left):.0f} s before attempt {record.number + 1} ({record.decision.reason})"


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
    who = lock.last_holder(run_dir)
    return who is not None and who.pid == pid and next_attempt(run_dir) > before


def _words(run_dir: Path, start: int) -> str:
    text = (run_dir / "logs" / SPAWN_LOG).read_bytes()[start:].decode(errors="replace").strip()
    return text or "without a word"


def _cancel_seconds(run_dir: Path) -> float:
    grace_seconds = read_launch(run_dir).grace_seconds
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
