"""A pod's own log: what it waits for is logged at once, and then every minute."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

REPEAT_SECONDS = 60.0
_MOST_NUMBERS = 12


class PodLog:
    """The log of one pod, on stdout."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waits_for = ""
        self._again_at = 0.0

    def info(self, message: str) -> None:
        """One line. A log that cannot be written must not end a run."""
        line = f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {self._name}: {message}\n"
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError:
            return

    def waiting(self, kind: str, message: str, now: float) -> None:
        """What this pod waits for: logged when it is another kind of thing than before, and every minute."""
        if kind != self._waits_for or now >= self._again_at:
            self._waits_for, self._again_at = kind, now + REPEAT_SECONDS
            self.info(f"waiting for {message}")

    def done_waiting(self) -> None:
        """The next wait is a new one."""
        self._waits_for = ""


def numbers(indices: Sequence[int]) -> str:
    """Pods by number: `1, 3`; of many, the first ones."""
    shown = ", ".join(str(index) for index in indices[:_MOST_NUMBERS])
    more = len(indices) - _MOST_NUMBERS
    return f"{shown} and {more} more" if more > 0 else shown
