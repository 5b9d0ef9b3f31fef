"""How far something is that takes long: `phase.json` in the run directory, for whoever looks.

It is written by one process, at most once a second and not before a second has passed, and goes when the phase ends. It
is no sign of life and decides nothing: a full disk, or a reader that is not there, changes nothing.
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
    """Counts one phase.

    Args:
        run_dir: Where it is told; nowhere when None.
        phase: What goes on, in a word.
        total: How much there is in all; unknown when None.
        unit: What is counted.
    """

    def __init__(self, run_dir: Path | None, phase: str, total: float | None = None, unit: str = "") -> None:
        self._file = run_dir / FILE if run_dir is not None else None
        self._facts = {"phase": phase, "total": total, "unit": unit, "begun": time.time()}
        self._told = time.monotonic()

    def at(self, done: float, facts: str = "") -> None:
        """So much is done; `facts` is told beside it."""
        now = time.monotonic()
        if self._file is None or now - self._told < EVERY_SECONDS:
            return
        self._told = now
        beside = self._file.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps({**self._facts, "done": done, "facts": facts, "time": time.time()}))
            beside.replace(self._file)

    def end(self) -> None:
        """Nothing of this phase is left to be told."""
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
    """Counts what a library does without a word: `measure` says from outside how much is done."""
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
