"""The signals that reach the first process of a pod: noted here, passed on to the agent when there is one."""

from __future__ import annotations

import signal
from types import FrameType

from cluster.agent.process.stop_request import REASONS

LEAVE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""After these, the pod's process ends as soon as its agent has."""


class Signals:
    """The signals so far. `leaving` tells whether this pod has to go."""

    def __init__(self) -> None:
        self.leaving = False
        self._arrived: list[signal.Signals] = []

    def listen(self) -> None:
        """Takes over the signals: the first process of a container gets none that it does not ask for."""
        for number in REASONS:
            signal.signal(number, self._note)

    def taken(self) -> list[signal.Signals]:
        """Those that arrived since the last call."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def add(self, number: signal.Signals) -> None:
        """As if the signal had arrived."""
        self._arrived.append(number)
        self.leaving = self.leaving or number in LEAVE

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.add(signal.Signals(number))
