"""Show the progress in a run's `phase.json` on a meter."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from launcher.cli._meter import Meter
from rundir.observed import PhaseProgress, read_phase

LOOK_SECONDS = 0.5
QUIET_SECONDS = 1.0
"""A command that takes less time shows no progress."""


def show_phase(meter: Meter, found: PhaseProgress) -> None:
    """Show a phase with counts on a meter."""
    begun = 0.0 if found.begun is None else max(0.0, time.time() - found.begun)
    meter.show(found.phase, found.done, found.total, unit=found.unit, note=found.facts, begun_seconds=begun)


@contextlib.contextmanager
def watched(run_dir: Path, console: Console, phase: str) -> Iterator[Meter]:
    """Show the progress of a run directory while the block works on it; `phase` is shown while nothing is counted."""
    over = threading.Event()
    with Meter(console) as meter:
        began = time.monotonic()

        def look() -> None:
            with contextlib.suppress(OSError):  # a closed terminal must not end the work
                while not over.wait(LOOK_SECONDS):
                    taken = time.monotonic() - began
                    if found := read_phase(run_dir):
                        show_phase(meter, found)
                    elif taken >= QUIET_SECONDS:
                        meter.show(phase, begun_seconds=taken)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield meter
        finally:
            over.set()
            thread.join()
