"""From a signal to the `stop` file, which is how the ranks hear of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.contract import ClusterError
from cluster.rundir import STOP, clear_stop, read_attempts, read_stop, write_stop

REASONS = {
    signal.SIGTERM: "preempted",
    signal.SIGUSR1: "walltime",
    signal.SIGUSR2: "preempted",
    signal.SIGINT: "stopped",
    signal.SIGHUP: "stopped",
}
"""What each signal to the agent means. docs/node-agent.md says why."""


class StopWishes:
    """The wishes to stop that have reached this agent, by signal or by somebody else's `stop` file.

    Handlers only take note; `poll` does the work. `signalled_at` is the monotonic time at which the first
    signal was acted upon: from then on, the grace period runs.
    """

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self.signalled_at: float | None = None
        self._run_dir = run_dir
        self.say = say
        self._arrived: list[signal.Signals] = []
        self._unwritten: dict[str, Any] | None = None
        self._ignored: dict[str, Any] | None = None

    def listen(self) -> None:
        """Takes over the signals. A hangup that `nohup` has us ignore stays ignored."""
        for number in REASONS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def clear_stale(self, submitted: float | None = None) -> None:
        """Removes the `stop` file of an earlier attempt; wishes by signal stay.

        `submitted` is when a scheduler was given the run. Then a wish that is newer than that and than the last
        attempt stays, too: it came while the run waited in the queue, or its agent was starting.
        """
        if self._is_stale(read_stop(self._run_dir), submitted):
            clear_stop(self._run_dir)

    def ignore_stale(self, submitted: float | None) -> None:
        """Does not hear what `clear_stale` would remove: a follower may look before the head has done so."""
        stop = read_stop(self._run_dir)
        self._ignored = stop if self._is_stale(stop, submitted) else None

    def _is_stale(self, stop: dict[str, Any] | None, submitted: float | None) -> bool:
        records = read_attempts(self._run_dir)
        since = max([submitted or 0.0, *(record.get("ended") or 0.0 for record in records[-1:])])
        return submitted is None or stop is None or _time(stop) <= since

    def poll(self) -> dict[str, Any] | None:
        """Acts upon signals that have arrived; returns the wish to stop, None when there is none."""
        while self._arrived:
            self._act_upon(self._arrived.pop(0))
        stop = self._unwritten or read_stop(self._run_dir)
        stop = None if stop == self._ignored else stop
        if stop is not None and stop.get("urgent") and self.signalled_at is None:
            self.signalled_at = time.monotonic()
        return stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(signal.Signals(number))

    def _act_upon(self, number: signal.Signals) -> None:
        reason = REASONS[number]
        if self.signalled_at is None:
            self.signalled_at = time.monotonic()
        present = self.poll()
        # The first wish counts, except that a user's wins: nobody restarts what a user stopped.
        if present is not None and (present["reason"] == "stopped" or reason != "stopped"):
            self.say(f"{number.name}: already stopping ({present['reason']})")
            return
        self.say(f"{number.name}: asking the ranks to save and leave ({reason})")
        self._write(reason, number.name)

    def _write(self, reason: str, by: str) -> None:
        try:
            write_stop(self._run_dir, reason, by)
        except ClusterError as error:  # a full disk: an empty file needs no space, and tells the ranks enough
            self.say(f"{error}; leaving an empty one")
            self._unwritten = {"reason": reason, "by": by, "time": time.time()}
            with contextlib.suppress(OSError):  # then the end of the grace period tells them
                (self._run_dir / STOP).touch()


def _time(stop: dict[str, Any]) -> float:
    at = stop.get("time")
    return float(at) if isinstance(at, int | float) else 0.0
