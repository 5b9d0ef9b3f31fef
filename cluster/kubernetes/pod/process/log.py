"""What a pod says in its own log: what it waits for at once and then every minute, not with every look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

REPEAT_SECONDS = 60.0
_MOST_NUMBERS = 12


class Words:
    """The voice of one pod."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._waits_for = ""
        self._again_at = 0.0

    def say(self, words: str) -> None:
        """One line on stdout. A log that cannot be written must not end a run."""
        line = f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {self._who}: {words}\n"
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError:
            return

    def waiting(self, kind: str, words: str, now: float) -> None:
        """What this pod waits for: said when it is another kind of thing than before, and every minute."""
        if kind != self._waits_for or now >= self._again_at:
            self._waits_for, self._again_at = kind, now + REPEAT_SECONDS
            self.say(f"waiting for {words}")

    def done_waiting(self) -> None:
        """The next wait is a new one."""
        self._waits_for = ""


def numbers(indices: Sequence[int]) -> str:
    """Pods by number: `1, 3`; of many, the first ones."""
    shown = ", ".join(str(index) for index in indices[:_MOST_NUMBERS])
    more = len(indices) - _MOST_NUMBERS
    return f"{shown} and {more} more" if more > 0 else shown
