"""What a run's `phase.json` tells of how far a long phase is, shown on a meter."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.rundir import PHASE, read_json_loosely
from launcher.cli._meter import Meter

STALE_SECONDS = 120.0
LOOK_SECONDS = 0.5
QUIET_SECONDS = 1.0
"""What takes less needs no word."""


def read_phase(run_dir: Path) -> dict[str, Any]:
    """The phase that is being counted; empty when none is, or whoever counted it is gone."""
    found = read_json_loosely(run_dir / PHASE)
    told = found.get("time")
    fresh = isinstance(told, int | float) and abs(time.time() - told) < STALE_SECONDS
    return found if fresh and isinstance(found.get("phase"), str) else {}


def show_phase(meter: Meter, found: dict[str, Any]) -> None:
    """A counted phase on a meter."""
    done, total = (found[name] if isinstance(found.get(name), int | float) else None for name in ("done", "total"))
    begun = max(0.0, time.time() - found["begun"]) if isinstance(found.get("begun"), int | float) else 0.0
    unit, facts = str(found.get("unit") or ""), str(found.get("facts") or "")
    meter.show(found["phase"], done, total, unit=unit, note=facts, begun_seconds=begun)


@contextlib.contextmanager
def watched(run_dir: Path, console: Console, phase: str) -> Iterator[Meter]:
    """Shows what is counted in a run directory while something works on it in here; `phase` where nothing is."""
    over = threading.Event()
    with Meter(console) as meter:
        began = time.monotonic()

        def look() -> None:
            with contextlib.suppress(OSError):  # the terminal may go; what is worked on may go on
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
