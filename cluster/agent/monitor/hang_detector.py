"""The heartbeat watch: when has training stood still for too long? Told the time, so that it can be tested.

The heartbeat is another process's wall clock, which may jump. So its value is never compared with our clock:
what counts is for how long, by the monotonic clock, we have looked and seen no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rundir.progress import Progress
from rundir.states import BEFORE_STEPS, TrainerState

_LONGEST_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Stall:
    """Training stands still: since when, and where it was."""

    seconds: float
    state: str  # "" when the trainer has given no sign in this attempt
    step: int | None

    @property
    def words(self) -> str:
        """For people: `no heartbeat for 61 s at step 12`."""
        if not self.state:
            return f"no sign of the trainer for {self.seconds:.0f} s"
        where = f"at step {self.step}" if self.state == TrainerState.TRAINING else f"in state {self.state}"
        return f"no heartbeat for {self.seconds:.0f} s {where}"


class HeartbeatWatch:
    """Watches one attempt's progress. `hang_seconds` None: never fires; `start_seconds` None: not before steps."""

    def __init__(self, attempt: int, hang_seconds: float | None, start_seconds: float | None) -> None:
        self._attempt = attempt
        self._hang_seconds = hang_seconds
        self._start_seconds = start_seconds
        self._seen: tuple[Any, ...] = ()
        self._still_seconds = 0.0
        self._looked_at: float | None = None

    def look(self, progress: Progress, now: float) -> Stall | None:
        """The stall, when there has been no change for longer than this state allows."""
        mine = progress.of_attempt(self._attempt)
        sign = (mine.heartbeat, mine.state, mine.step)
        # An agent that was frozen itself (a suspended machine, SIGSTOP) has not looked: such a gap proves nothing.
        since = 0.0 if self._looked_at is None else min(now - self._looked_at, _LONGEST_LOOK_SECONDS)
        self._still_seconds = self._still_seconds + since if sign == self._seen else 0.0
        self._seen, self._looked_at = sign, now
        limit = self._limit(mine.state)
        if limit is None or self._still_seconds < limit:
            return None
        return Stall(self._still_seconds, mine.state, mine.step)

    def _limit(self, state: str) -> float | None:
        if self._hang_seconds is None:
            return None
        return self._start_seconds if not state or state in BEFORE_STEPS else self._hang_seconds
