"""What the suite of outcomes wants to know about a backend, and nothing else about it."""

import signal
from pathlib import Path
from typing import Any, Protocol

from cluster import Backend


class Place(Protocol):
    """Where runs live, and how somebody there does to them what the suite asks for.

    Attributes:
        backend: the backend under test.
        comes_back: whether the place itself starts a run again whose machines were taken away, or whose time was
            over. Where it does not, the suite submits the run again.
        patience_seconds: the longest that one step of a run's life takes here.
    """

    backend: Backend
    comes_back: bool
    patience_seconds: float

    def launch(self, *, short: bool = False) -> dict[str, Any]:
        """plan.json's `launch` of a run with two ranks here, as far as the place decides it: `backend`, `nodes`,
        `ranks_per_node`, and whatever makes the stand-in trainer be found in place of the real one.

        `short`: a run whose time is to be over soon, where the place limits time.
        """

    def take_away(self, run_dir: Path) -> None:
        """Takes the machines away from a run that trains, with the warning that the place gives."""

    def time_is_over(self, run_dir: Path) -> None:
        """Tells a `short` run that trains that its time is over, as the place does shortly before the end."""

    def signal_rank(self, run_dir: Path, rank: int, number: signal.Signals) -> None:
        """Sends a signal to one training rank, wherever it is; it has written its process number to `rankN.pid`."""

    def end_by_hand(self, run_dir: Path) -> None:
        """Ends a run that trains by the place's own means, without Tuneyard. That is its user's wish."""
