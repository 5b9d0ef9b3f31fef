"""Reading the logs of an attempt out of the run directory, while they grow or afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.errors import ClusterError
from rundir.attempts import read_attempts
from rundir.paths import RunPaths, rank_log_name

_POLL_SECONDS = 0.2
_STORY = ("agent.log", "prepare.log", rank_log_name(0), "export.log", "evaluate.log")
"""What is read when no rank was asked for: torchrun's own train.log is left to those who look for it."""


def read_logs(
    run_dir: Path, rank: int | None, attempt: int | None, follow: bool, alive: Callable[[], bool]
) -> Iterator[str]:
    """The lines of an attempt's logs (cluster.contract.Backend.logs); `alive` tells whether more can come."""
    _refuse_unknown(run_dir, attempt)
    number = attempt if attempt is not None else _newest(run_dir, follow, alive)
    while number is not None:
        yield from _lines_of(run_dir, number, rank, follow, alive)
        number = _next(run_dir, number, alive) if follow and attempt is None else None


def _lines_of(run_dir: Path, number: int, rank: int | None, follow: bool, alive: Callable[[], bool]) -> Iterator[str]:
    folder = RunPaths(run_dir).attempt_logs(number)
    if rank is None:
        tails = [Tail(folder / name, f"[{Path(name).stem}] ") for name in _STORY]
    else:
        tails = [Tail(folder / rank_log_name(rank))]
    yield from _until_over(tails, lambda: follow and alive() and _is_open(run_dir, number))


class Tail:
    """One log file that may grow, or not exist yet. Every line is given once, when it is complete."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self._path = path
        self._prefix = prefix
        self._position = 0
        self._partial = b""

    def new_lines(self) -> Iterator[str]:
        """The lines that were completed since the last call."""
        try:
            with open(self._path, "rb") as log:
                log.seek(self._position)
                data = log.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        self._position += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            yield self._text(line)

    def last_line(self) -> Iterator[str]:
        """What follows the last line end, if anything."""
        if self._partial:
            yield self._text(self._partial)
            self._partial = b""

    def _text(self, line: bytes) -> str:
        # A progress bar rewrites its line after each carriage return: the last one is what a terminal shows.
        shown = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        return self._prefix + shown


def _until_over(tails: list[Tail], more: Callable[[], bool]) -> Iterator[str]:
    while True:
        last_round = not more()  # asked before reading, so that the final words are not missed
        for tail in tails:
            yield from tail.new_lines()
        if last_round:
            break
        time.sleep(_POLL_SECONDS)
    for tail in tails:
        yield from tail.last_line()


def _newest(run_dir: Path, follow: bool, alive: Callable[[], bool]) -> int | None:
    """The newest attempt; when following, one that is still to come if an agent is alive to open it."""
    while True:
        lives = follow and alive()
        attempts = read_attempts(run_dir)
        if attempts and (not lives or attempts[-1].is_open):
            return attempts[-1].number
        if not lives:
            return None
        time.sleep(_POLL_SECONDS)


def _next(run_dir: Path, number: int, alive: Callable[[], bool]) -> int | None:
    """The attempt after this one, waited for while an agent is alive to open it."""
    while True:
        lives = alive()
        newer = [record.number for record in read_attempts(run_dir) if record.number > number]
        if newer or not lives:
            return newer[0] if newer else None
        time.sleep(_POLL_SECONDS)


def _is_open(run_dir: Path, attempt: int) -> bool:
    return any(record.number == attempt and record.is_open for record in read_attempts(run_dir))


def _refuse_unknown(run_dir: Path, attempt: int | None) -> None:
    known = [record.number for record in read_attempts(run_dir)]
    if attempt is not None and attempt not in known:
        has = f"attempts {known[0]} to {known[-1]}" if known else "no attempt yet"
        raise ClusterError(f"{run_dir.name} has no attempt {attempt}", f"it has {has}")
