"""The lock on a run directory: the truth about whether an agent is alive.

An agent holds it for its whole life, and the kernel gives it back when the agent ends, however it ends. So
two agents on one run directory are impossible, and a stale process number is never taken for a living agent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

from cluster.errors import ClusterError
from cluster.process_identity import ProcessIdentity, identity

LOCK = "agent.lock"
_POLL_SECONDS = 0.02


class LockHeldError(ClusterError):
    """Another agent is alive on this run directory."""


class AgentLock:
    """Held by one agent for its whole life. `previous` is who held it before, as far as is known."""

    def __init__(self, run_dir: Path, patience_seconds: float = 2.0) -> None:
        self.run_dir = run_dir
        self.previous: ProcessIdentity | None = None
        self._patience_seconds = patience_seconds
        self._descriptor = -1

    def __enter__(self) -> AgentLock:
        """Takes the lock. Waits a little, since `holder` takes it for a moment; then raises LockHeldError."""
        self._descriptor = _open(self.run_dir / LOCK)
        try:
            self._take()
            self.previous = _identity_in(self._descriptor)
            self._sign()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _take(self) -> None:
        deadline = time.monotonic() + self._patience_seconds
        while not try_lock(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise LockHeldError(*already_running(self.run_dir, _identity_in(self._descriptor) or ProcessIdentity()))
            time.sleep(_POLL_SECONDS)

    def _sign(self) -> None:
        text = json.dumps(identity(os.getpid()).to_json()) + "\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)


def holder(run_dir: Path) -> ProcessIdentity | None:
    """The identity of the living agent, None when there is none; empty while it is still signing."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return _identity_in(descriptor) or ProcessIdentity()
    finally:
        os.close(descriptor)


def last_holder(run_dir: Path) -> ProcessIdentity | None:
    """The identity of the last agent that took the lock, alive or not; None when it cannot be told."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _identity_in(descriptor)
    finally:
        os.close(descriptor)


def already_running(run_dir: Path, who: ProcessIdentity) -> tuple[str, str]:
    """Message and remedy for somebody who wants to start a second agent."""
    place = f" (process {who.pid} on {who.host})" if who.pid is not None and who.host else ""
    return f"{run_dir.name} is already running{place}", "wait for it, or end it with `tuneyard cancel`"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ClusterError(
            f"{path}: cannot be written: {error.strerror}", "name a run directory of your own"
        ) from error


def try_lock(descriptor: int, kind: int) -> bool:
    """Whether the lock could be had; ClusterError where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        raise ClusterError(
            f"the run directory's file system cannot lock files: {error.strerror}",
            "mount it with locking (on Lustre: -o flock), or put the runs elsewhere",
        ) from error
    return True


def _identity_in(descriptor: int) -> ProcessIdentity | None:
    with contextlib.suppress(ValueError):
        value = json.loads(os.pread(descriptor, 4096, 0))
        return ProcessIdentity.from_json(value) if isinstance(value, dict) else None
    return None
