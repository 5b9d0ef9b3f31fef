"""One testbed per machine: who has it, and what a killed one has left.

The lock is held by the control plane's first process, so it is free exactly when that is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK = Path("/run/tuneyard-kubernetes-testbed.lock")


@dataclass(frozen=True)
class Holder:
    """Whose testbed it is. `owner` is the process that ends it; 0 when it stays until someone takes it down."""

    directory: str
    owner: int = 0
    began: str = ""

    @property
    def is_abandoned(self) -> bool:
        """Whether its owner died without taking it down."""
        return self.owner != 0 and _start_time(self.owner) != self.began

    def __str__(self) -> str:
        return f"{self.directory}" + (f", of process {self.owner}" if self.owner else "")


def describe(directory: Path, owned: bool) -> Holder:
    """This process as holder of the testbed in `directory`."""
    return Holder(str(directory), os.getpid(), _start_time(os.getpid())) if owned else Holder(str(directory))


@contextmanager
def machine_lock() -> Iterator[tuple[int, bool]]:
    """The open lock file, and whether the lock was free and is now taken. Open copies keep it taken."""
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield handle, free
    finally:
        os.close(handle)


def read_holder() -> Holder | None:
    """Who took the lock last; None when nobody has, or when it was given back."""
    try:
        return Holder(**json.loads(LOCK.read_text()))
    except (OSError, ValueError):
        return None


def write_holder(handle: int, holder: Holder) -> None:
    """Writes down who has the lock now."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(holder)).encode(), 0)


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
