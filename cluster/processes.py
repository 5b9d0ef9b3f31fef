"""Naming a process so that its number, given to another one later, is not mistaken for it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any


def identity(pid: int) -> dict[str, Any]:
    """What tells this process from any other one, on this machine or another: a plain JSON object."""
    return {
        "pid": pid,
        "start_ticks": start_ticks(pid),
        "host": socket.gethostname(),
        "boot": boot_id(),
    }


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


def is_here(who: dict[str, Any]) -> bool:
    """Whether an identity was taken on this machine."""
    return bool(who.get("host") == socket.gethostname())


def signal_process(who: dict[str, Any], number: signal.Signals) -> bool:
    """Sends a signal to exactly that process; False when it is gone, even if its number is in use again."""
    pid = who.get("pid")
    if not isinstance(pid, int) or start_ticks(pid) != who.get("start_ticks"):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
