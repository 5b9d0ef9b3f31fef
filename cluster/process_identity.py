"""Process identity that survives PID reuse."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from rundir.document import Document, as_integer, as_text, field


class ProcessIdentity(Document):
    """What tells a process from any other one, on this machine or another."""

    pid: int | None = field(as_integer, default=None)
    start_ticks: int | None = field(as_integer, default=None)
    host: str = field(as_text, default="")
    boot: str | None = field(as_text, default=None)

    @property
    def is_here(self) -> bool:
        """Whether it was taken on this machine."""
        return self.host == socket.gethostname()


def identity(pid: int) -> ProcessIdentity:
    """The identity of a process of this machine."""
    return ProcessIdentity(pid=pid, start_ticks=start_ticks(pid), host=socket.gethostname(), boot=boot_id())


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none (or no /proc)."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name, from the state on; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def boot_id() -> str | None:
    """Changes with every boot of the machine; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def signal_process(who: ProcessIdentity, number: signal.Signals) -> bool:
    """Sends a signal to exactly that process; False when it is gone, even if its number is in use again."""
    if who.pid is None or start_ticks(who.pid) != who.start_ticks:
        return False
    try:
        os.kill(who.pid, number)
    except ProcessLookupError:
        return False
    return True
