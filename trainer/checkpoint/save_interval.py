"""How long to train between two checkpoints, from what a save costs and how often attempts end early."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field

from trainer.config import CheckpointConfig

FIRST_SECONDS = 60.0
"""With `auto`, the first save of an attempt comes this early: it measures, and it finds a full quota early."""
LEAST_SECONDS, MOST_SECONDS = 30.0, 3600.0
WRITES_APART = 4.0
"""Storage is shared: at most a quarter of the time is spent writing."""
PRIOR_MTBF_SECONDS = 6 * 3600.0
MTBF_VARIABLE = "TUNEYARD_MTBF_SECONDS"


def auto_interval_seconds(
    stall_seconds: float, write_seconds: float, mtbf_seconds: float, max_overhead: float
) -> float:
    """Seconds between saves that lose least: sqrt(2 C M) (Young 1974, first order of Daly 2006), within bounds.

    A save costs training C = `stall_seconds`; a failure, every M = `mtbf_seconds`, costs half an interval and the
    time of the write under way. Shorter intervals than C / `max_overhead` are refused (CheckFreq, FAST'21, bounds
    the same share at 3.5 %), and so are those in which storage would be written to for more than a quarter.

    Args:
        stall_seconds: training waits so long for one save.
        write_seconds: from the beginning of a save until it is published.
        mtbf_seconds: mean time between attempts' early ends.
        max_overhead: largest share of the time that may go to waiting.
    """
    best = math.sqrt(2 * stall_seconds * mtbf_seconds)
    least = max(stall_seconds / max_overhead, WRITES_APART * write_seconds, LEAST_SECONDS)
    return max(min(best, MOST_SECONDS), least)


@dataclass
class SaveClock:
    """Tells when a save is due by time. With `auto`, each save sets the time of the next.

    Attributes:
        settings: the job's.
        mtbf_seconds: mean time between early ends, as the node agent has seen them.
        last: monotonic time of the last save's beginning.
        interval_seconds: from one save's beginning to the next; None: never by time.
    """

    settings: CheckpointConfig
    mtbf_seconds: float = PRIOR_MTBF_SECONDS
    last: float = field(default_factory=time.monotonic)
    interval_seconds: float | None = None

    def __post_init__(self) -> None:
        minutes = self.settings.every_minutes
        self.interval_seconds = FIRST_SECONDS if minutes == "auto" else 60 * minutes if minutes else None

    @property
    def due(self) -> bool:
        return self.interval_seconds is not None and time.monotonic() - self.last >= self.interval_seconds

    def begun(self) -> None:
        """A save begins now."""
        self.last = time.monotonic()

    def measured(self, stall_seconds: float, write_seconds: float) -> None:
        """A save has cost so much."""
        if self.settings.every_minutes == "auto":
            self.interval_seconds = auto_interval_seconds(
                stall_seconds, write_seconds, self.mtbf_seconds, self.settings.max_overhead
            )


def observed_mtbf_seconds() -> float:
    """What the node agent has seen of this run, or a prior that suits a shared cluster."""
    try:
        return max(1.0, float(os.environ[MTBF_VARIABLE]))
    except (KeyError, ValueError):
        return PRIOR_MTBF_SECONDS
