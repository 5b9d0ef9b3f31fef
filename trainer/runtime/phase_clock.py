"""Where an attempt's time goes: seconds by phase, as `progress.json` tells them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("launch", "import", "rendezvous", "load", "first_step", "training", "save", "evaluate")
"""`launch` is torchrun's time until this rank's process began; the others follow each other in this process."""
PHASE_STARTED, RANK_STARTED = "TUNEYARD_PHASE_STARTED", "TUNEYARD_RANK_STARTED"


class PhaseClock:
    """Adds up the seconds of each phase; one phase runs at any time.

    Args:
        first: the phase that runs now.
    """

    def __init__(self, first: str = "load") -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since = first, time.monotonic()

    @classmethod
    def of_this_process(cls) -> PhaseClock:
        """The clock of a rank that has just imported everything, with what the node agent noted before it began."""
        clock = cls("import")
        now, rank_started = time.time(), _noted(RANK_STARTED)
        if rank_started:
            clock._seconds["import"] = max(0.0, now - rank_started)
            if phase_started := _noted(PHASE_STARTED):
                clock._seconds["launch"] = max(0.0, rank_started - phase_started)
        return clock

    @property
    def running(self) -> str:
        """The phase that runs now."""
        return self._phase

    def enter(self, phase: str) -> None:
        """`phase` runs from now on."""
        now = time.monotonic()
        self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """`phase` runs inside the block, then what ran before."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase until now."""
        self.enter(self._phase)
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}


def _noted(variable: str) -> float:
    try:
        return float(os.environ.get(variable, ""))
    except ValueError:
        return 0.0
