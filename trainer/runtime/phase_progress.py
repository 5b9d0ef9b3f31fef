"""Progress of a long phase: `phase.json` in the run directory, for the command line to show.

One process writes it, at most once a second and not before a second has passed, and removes it when the phase ends. It
is no heartbeat and decides nothing, so a full disk costs the display only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = "phase.json"
EVERY_SECONDS = 1.0


class Counter:
    """Progress of one phase.

    Args:
        run_dir: Where the file is written; None writes none.
        phase: What is being done, in a word.
        total: Amount of all work; None where it is unknown.
        unit: Of the amounts.
    """

    def __init__(self, run_dir: Path | None, phase: str, total: float | None = None, unit: str = "") -> None:
        self._file = run_dir / FILE if run_dir is not None else None
        self._facts = {"phase": phase, "total": total, "unit": unit, "begun": time.time()}
        self._written = time.monotonic()

    def at(self, done: float, facts: str = "") -> None:
        """Note the amount that is done; `facts` is shown beside it."""
        now = time.monotonic()
        if self._file is None or now - self._written < EVERY_SECONDS:
            return
        self._written = now
        staging = self._file.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):
            staging.write_text(json.dumps({**self._facts, "done": done, "facts": facts, "time": time.time()}))
            staging.replace(self._file)

    def end(self) -> None:
        """Remove the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)


@contextlib.contextmanager
def counting(run_dir: Path | None, phase: str, total: float | None = None, unit: str = "") -> Iterator[Counter]:
    """Counts a phase for as long as the block lasts."""
    counter = Counter(run_dir, phase, total, unit)
    try:
        yield counter
    finally:
        counter.end()


@contextlib.contextmanager
def measuring(
    run_dir: Path, phase: str, measure: Callable[[], float], total: float | None, unit: str
) -> Iterator[None]:
    """Progress of a call that reports none: a thread asks `measure` for the amount that is done."""
    over = threading.Event()
    with counting(run_dir, phase, total, unit) as counter:

        def look() -> None:
            while not over.wait(EVERY_SECONDS):
                with contextlib.suppress(OSError):
                    counter.at(measure())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def folder_bytes(folder: Path) -> float:
    """Bytes of the files in a folder."""
    return float(sum(file.stat().st_size for file in folder.glob("*") if file.is_file()))
