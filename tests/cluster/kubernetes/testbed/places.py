"""Places: what a testbed needs of the machine for itself, and who has it. There are a few, so a few testbeds can be up.

A place's lock is held by the first process of the control plane, so it is free exactly when that is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.kubernetes.testbed.host import TestbedError, run


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

    @property
    def is_someone(self) -> bool:
        """Whether another process that is alive boots it, has it, or ends it."""
        return self.owner not in (0, os.getpid()) and not self.is_abandoned

    def __str__(self) -> str:
        return self.directory + (f" (of process {self.owner})" if self.owner else "")


@dataclass(frozen=True)
class Place:
    """One place: a network, a cable into it, a control group and a lock."""

    number: int = 0

    @property
    def cable(self) -> str:
        """The only network interface that the real machine gets."""
        return f"tuneyard-bed{self.number}"

    @property
    def network(self) -> str:
        """How addresses begin: .0.1 is then the real machine, .0.2 the control plane, .X.1 node X, .X.10-250 pods."""
        return f"10.{244 + self.number}"

    @property
    def cgroup(self) -> str:
        """The control group that holds those of the nodes."""
        return f"tuneyard-bed{self.number}"

    def address(self, name: str) -> str:
        """The address of node nX, or of the control plane."""
        return f"{self.network}.{name[1:]}.1" if name[1:].isdigit() else f"{self.network}.0.2"

    def is_usable(self) -> bool:
        """Whether the real machine uses these addresses for nothing else."""
        routes = run("ip", "route", "show", "root", f"{self.network}.0.0/16").splitlines()
        return all(f"dev {self.cable} " in route for route in routes)

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Takes the lock, and gives its open file, whose copies keep it taken; None when someone else has it."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        try:
            yield handle if free else None
        finally:
            os.close(handle)

    @property
    def is_taken(self) -> bool:
        """Whether someone has the lock."""
        with self.locked() as handle:
            return handle is None

    @contextmanager
    def clearing(self) -> Iterator[None]:
        """Waits until nobody else takes down what is here: two at once would stumble over each other."""
        with open(f"/run/{self.cable}.clearing", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @property
    def holder(self) -> Holder | None:
        """Who took the lock last."""
        try:
            return Holder(**json.loads(self._lock.read_text()))
        except (OSError, ValueError):
            return None

    def note_holder(self, handle: int, directory: Path, owned: bool) -> None:
        """Writes down who has the lock now; with `owned` this process has to give it back."""
        own = (os.getpid(), _start_time(os.getpid())) if owned else ()
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(Holder(str(directory), *own))).encode(), 0)

    @property
    def _lock(self) -> Path:
        return Path(f"/run/{self.cable}.lock")


PLACES = tuple(Place(number) for number in range(4))


@contextmanager
def taken_place() -> Iterator[tuple[Place, int]]:
    """The first free place and its lock; TestbedError when there is none."""
    for place in PLACES:
        with place.locked() as handle:
            if handle is not None and place.is_usable():
                yield place, handle
                return
    taken = ", ".join(str(place.holder) for place in PLACES)
    raise TestbedError(
        f"all {len(PLACES)} places for testbeds on this machine are taken: {taken}; wait for the end of one, or end it:"
        " python -m tests.cluster.kubernetes.testbed down --dir DIR"
    )


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
