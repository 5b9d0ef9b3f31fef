"""The agent's child processes: starting them tied to the agent, waiting, and ending all that is left.

On Linux the agent adopts orphans (a child subreaper), so a process that outlives its parent is still found;
and children die with their parent, so nothing survives an agent that is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.process_identity import stat_fields

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_END_SECONDS = 10.0
_REAP_SECONDS = 0.01


class Children:
    """All processes below the agent, except those that were there before it. Leaving its block ends them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._foreign = set(descendants(os.getpid()))
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *error: object) -> None:
        self.end_all()

    def start(self, command: Sequence[str], environment: dict[str, str], log_path: Path | None) -> int:
        """Starts a command in a session of its own; returns its process id. With no log file it speaks where we do."""
        agent = os.getpid()
        with open(log_path, "ab") if log_path else contextlib.nullcontext() as log:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log_path else None,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent([agent]),  # safe: the agent has one thread
            )
        self._started[process.pid] = process
        return process.pid

    def exit_code(self, pid: int) -> int | None:
        """How a started process ended (minus the signal when one killed it); None while it runs."""
        self.reap()
        return self._started[pid].returncode

    def tell(self, pid: int, number: signal.Signals) -> None:
        """Signals one started process."""
        if self.exit_code(pid) is None:
            os.kill(pid, number)

    def signal_group(self, pid: int, number: signal.Signals) -> None:
        """Signals a started process and what shares its process group."""
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return  # it left by itself in between

    def kill(self, pid: int) -> None:
        """Kills one process below the agent."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def end_all(self) -> None:
        """Kills and reaps everything below the agent, and names what would not die."""
        deadline = time.monotonic() + _END_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            for pid in left:
                self.kill(pid)
            time.sleep(_REAP_SECONDS)
        if left:
            self._say(f"processes {left} do not die (waiting for a device?): this machine needs a look")

    def _left(self) -> list[int]:
        self.reap()
        return [pid for pid in descendants(os.getpid()) if pid not in self._foreign]

    def reap(self) -> None:
        """Takes leave of all that have ended, orphans too: the first process of a container has to."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._started:
                self._started[pid].returncode = os.waitstatus_to_exitcode(status)


def die_with_parent(living_parents: Sequence[int] = (), orphaned_to: Sequence[int] = ()) -> None:
    """Has the kernel kill this process when its parent dies; leaves at once if that has happened already.

    That it happened shows in the parent's number: not one of `living_parents`, or one of `orphaned_to`.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.getppid()
    if parent in orphaned_to or (living_parents and parent not in living_parents):
        os._exit(1)


def descendants(ancestor: int) -> list[int]:
    """Process ids of everything below a process, children before grandchildren; zombies too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if fields := stat_fields(int(entry.name)):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(ancestor, []))
    for pid in found:  # grows while we walk it
        found += children.get(pid, [])
    return found


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None and _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
