"""What goes wrong with real processes and files, done to them: drills, the chaos campaign and tests share these."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rundir.paths import RunPaths, rank_log_name


def rank_pid(run_dir: Path, attempt: int, rank: int) -> int:
    """The process of a training rank on this machine, as the rank wrote it down."""
    log = RunPaths(run_dir).attempt_logs(attempt) / rank_log_name(rank)
    return int(log.with_suffix(".pid").read_text())


def signal_rank(run_dir: Path, attempt: int, rank: int, number: signal.Signals) -> int:
    """Sends a signal to a training rank; gives its process."""
    pid = rank_pid(run_dir, attempt, rank)
    os.kill(pid, number)
    return pid


@contextlib.contextmanager
def held_still(pids: Sequence[int]) -> Iterator[None]:
    """Holds processes still inside the block."""
    _signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_all(pids, signal.SIGCONT)


def limit_file_size(pids: Iterable[int], most_bytes: int) -> None:
    """Lets no file of these processes grow beyond that (EFBIG), as on a full disk; `RLIM_INFINITY` takes it back.

    The soft limit only: it can be lifted again without privileges.
    """
    for pid in pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, hard))


def fill_disk(ballast: Path, left_bytes: int) -> None:
    """Takes all free space of a filesystem but so much, with one file; to delete it is the way back."""
    with ballast.open("wb") as stream:
        space = os.statvfs(ballast.parent)
        room = space.f_bavail * space.f_frsize - left_bytes
        if room > 0:
            os.posix_fallocate(stream.fileno(), 0, room)


def flip_bit(file: Path, place: float = 0.5, bit: int = 0) -> None:
    """Turns one bit of a file.

    Args:
        file: It must not be empty.
        place: Where, 0 to 1 of its length.
        bit: Which of the byte.
    """
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(int(place * size) % size)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1 << bit]))


def truncate(file: Path, place: float) -> None:
    """Cuts a file off, 0 to 1 of its length."""
    os.truncate(file, int(place * file.stat().st_size))


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
