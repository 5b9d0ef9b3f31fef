"""From a signal to the `stop` file, which is how the ranks hear of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rundir.attempts import read_attempts
from rundir.errors import RunDirError
from rundir.outcome import StopReason
from rundir.paths import RunPaths
from rundir.stop import StopRequest, clear_stop, read_stop, stop_request, write_stop

REASONS = {
    signal.SIGTERM: StopReason.PREEMPTED,
    signal.SIGUSR1: StopReason.WALLTIME,
    signal.SIGUSR2: StopReason.PREEMPTED,
    signal.SIGINT: StopReason.STOPPED,
    signal.SIGHUP: StopReason.STOPPED,
}
"""What each signal to the agent means. docs/node-agent.md says why."""


class StopRequests:
    """The stop requests that have reached this agent, by signal or by somebody else's `stop` file.

    Handlers only take note; `poll` does the work. `signalled_at` is the monotonic time at which the first
    signal was acted upon: from then on, the grace period runs.
    """

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self.signalled_at: float | None = None
        self._run_dir = run_dir
        self.say = say
        self._arrived: list[signal.Signals] = []
        self._unwritten: StopRequest | None = None
        self._ignored: StopRequest | None = None

    def listen(self) -> None:
        """Takes over the signals. A hangup that `nohup` has us ignore stays ignored."""
        for number in REASONS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def clear_stale(self, submitted: float | None = None) -> None:
        """Removes the `stop` file of an earlier attempt; stop_requests by signal stay.

        `submitted` is when a scheduler was given the run. Then a request that is newer than that and than the last
        attempt stays, too: it came while the run waited in the queue, or its agent was starting.
        """
        if self._is_stale(read_stop(self._run_dir), submitted):
            clear_stop(self._run_dir)

    def ignore_stale(self, submitted: float | None) -> None:
        """Does not hear what `clear_stale` would remove: a follower may look before the head has done so."""
        stop = read_stop(self._run_dir)
        self._ignored = stop if self._is_stale(stop, submitted) else None

    def _is_stale(self, stop: StopRequest | None, submitted: float | None) -> bool:
        records = read_attempts(self._run_dir)
        since = max([submitted or 0.0, *(record.ended or 0.0 for record in records[-1:])])
        return submitted is None or stop is None or (stop.time or 0.0) <= since

    def poll(self) -> StopRequest | None:
        """Acts upon signals that have arrived; returns the stop request, None when there is none."""
        while self._arrived:
            self._act_upon(self._arrived.pop(0))
        stop = self._unwritten or read_stop(self._run_dir)
        stop = None if stop == self._ignored else stop
        if stop is not None and stop.urgent and self.signalled_at is None:
            self.signalled_at = time.monotonic()
        return stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(signal.Signals(number))

    def _act_upon(self, number: signal.Signals) -> None:
        reason = REASONS[number]
        if self.signalled_at is None:
            self.signalled_at = time.monotonic()
        present = self.poll()
        # The first request counts, except that a user's wins: nobody restarts what a user stopped.
        if present is not None and (present.is_users or reason is not StopReason.STOPPED):
            self.say(f"{number.name}: already stopping ({present.reason})")
            return
        self.say(f"{number.name}: asking the ranks to save and leave ({reason})")
        self._write(reason, number.name)

    def _write(self, reason: StopReason, by: str) -> None:
        try:
            write_stop(self._run_dir, reason, by)
        except RunDirError as error:  # a full disk: an empty file needs no space, and tells the ranks enough
            self.say(f"{error}; leaving an empty one")
            self._unwritten = stop_request(reason, by)
            with contextlib.suppress(OSError):  # then the end of the grace period tells them
                RunPaths(self._run_dir).stop.touch()
