"""What the kernel's memory controller says about our group of processes, in version 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # version 1 says so with the largest number of whole pages


@dataclass(frozen=True)
class _Version:
    """Where one version of the controller keeps its numbers."""

    kills: str
    limit: str
    used: str
    cache: str


_ONE = _Version("memory.oom_control", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_TWO = _Version("memory.events", "memory.max", "memory.current", "inactive_file")


def oom_kills(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int | None:
    """How many processes the kernel has killed for lack of memory in our group; None where it does not tell."""
    for folder, version in _folders(membership, root):
        if (kills := _table(folder / version.kills).get("oom_kill")) is not None:
            return kills
    return None


def memory_left(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int | None:
    """Bytes that our group may still take, page cache not counted; None without a limit."""
    for folder, version in _folders(membership, root):
        limit, used = _number(folder / version.limit), _number(folder / version.used)
        if limit is not None and used is not None and limit < _NO_LIMIT:
            return limit - used + _table(folder / "memory.stat").get(version.cache, 0)
    return None


def _folders(membership: Path, root: Path) -> Iterator[tuple[Path, _Version]]:
    """Where our group may be, seen from the host, and from a container that takes its own group for the root."""
    for line in _text(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        for folder in (own.lstrip("/"), ""):
            if "memory" in controllers.split(","):
                yield root / "memory" / folder, _ONE
            elif controllers == "":
                yield root / folder, _TWO


def _table(path: Path) -> dict[str, int]:
    pairs = [line.split() for line in _text(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
