"""Membership by files: who is alive is told by small files that are rewritten all the time.

Two use it: pods of a run on Kubernetes (`cluster.kubernetes.pod.membership`), and agents of several nodes on any
scheduler (`cluster.agent.multinode`). A file carries a heartbeat, a counter that grows with every write, and an epoch:
what was written in another one is never acted upon. The reader has a timeout by its own monotonic clock, as clocks of
machines are never compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rundir.errors import TuneyardError
from rundir.files import read_json_of_other_node

REPEAT_SECONDS = 60.0
"""Trouble with writing is said again after so long."""


class Message(Protocol):
    """A frozen dataclass that a heartbeat file can hold."""

    @property
    def beat(self) -> int: ...


Sent = TypeVar("Sent", bound=Message)


@dataclass
class LivenessTimeout:
    """For how long somebody has shown no sign of life, by our own monotonic clock."""

    limit_seconds: float
    _seen: Any = None
    _still_seconds: float = 0.0
    _looked_at: float | None = field(default=None)

    def has_passed(self, sign: Any, now: float) -> bool:
        """Whether the limit is over; `sign` is anything that changes while the other one lives."""
        # time in which we did not look ourselves proves nothing: the whole machine may have stood still
        since = 0.0 if self._looked_at is None else min(now - self._looked_at, self.limit_seconds / 4)
        self._still_seconds = self._still_seconds + since if sign == self._seen else 0.0
        self._seen, self._looked_at = sign, now
        return self._still_seconds >= self.limit_seconds


class HeartbeatWriter(Generic[Sent]):
    """Keeps one file fresh: written at once when there is something new, and again whenever a beat is due.

    Args:
        first: What the file holds before anything is sent. Nothing is written yet.
        write: Replaces the file; OSError or TuneyardError where it cannot.
        interval_seconds: How long after a message the next beat is due.
        say: Told of trouble with beats, at most once a minute.
    """

    def __init__(
        self,
        first: Sent,
        write: Callable[[Sent], None],
        interval_seconds: Callable[[Sent], float],
        say: Callable[[str], None],
    ) -> None:
        self.sent = first
        self.say = say
        self._write, self._interval_seconds = write, interval_seconds
        self._next_beat = self._next_complaint = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next beat."""
        return now >= self._next_beat

    def send(self, message: Sent, now: float) -> None:
        """Writes something new. Raises what the writing raises; it is tried again with the next beat."""
        self.sent = replace(message, beat=self.sent.beat + 1)  # type: ignore[type-var]
        self._next_beat = now + self._interval_seconds(self.sent)
        self._write(self.sent)

    def beat(self, now: float) -> None:
        """Writes the same with another beat, if one is due. A full disk must not end a run that may go on."""
        if self.is_due(now):
            self.try_to_send(self.sent, now)

    def try_to_send(self, message: Sent, now: float) -> None:
        """As `send`, but trouble is only said."""
        try:
            self.send(message, now)
        except (TuneyardError, OSError) as error:
            if now >= self._next_complaint:
                self._next_complaint = now + REPEAT_SECONDS
                self.say(str(error))


def read_of_epoch(path: Path, **epoch: Any) -> dict[str, Any]:
    """What a file holds, if it was written in this epoch: `epoch` names keys and their values. Else empty."""
    given = read_json_of_other_node(path)
    return given if all(given.get(name) == value for name, value in epoch.items()) else {}
