"""The `stop` file: its presence asks the trainer to save at the next step boundary and leave."""

from __future__ import annotations

import time
from pathlib import Path

from rundir.document import Document, as_flag, as_number, as_text, field
from rundir.errors import RunDirError
from rundir.files import read_json, write_json
from rundir.outcome import StopReason
from rundir.paths import RunPaths


class StopRequest(Document):
    """Who asked the run to stop, why and when. An empty file counts as a user's request."""

    reason: StopReason = field(StopReason.parse, default=StopReason.STOPPED)
    by: str = field(as_text, default="")
    """For people: `tuneyard stop`, `SIGTERM`."""
    time: float | None = field(as_number, default=None)
    urgent: bool = field(as_flag, default=False)
    """The grace period runs, as after a signal to the agents."""
    origin: str = field(as_text, default="")
    """`scheduler` when a batch script wrote it: a requeued job removes it, as it was meant for the job's last start."""

    @property
    def is_users(self) -> bool:
        """Whether the user wants the run to end."""
        return self.reason is StopReason.STOPPED

    @property
    def who(self) -> str:
        """Who asked, for people."""
        return self.by or "stop file"


def stop_request(reason: StopReason, by: str, *, urgent: bool = False) -> StopRequest:
    """A request of now.

    Args:
        reason: Becomes the outcome.
        by: Who asks, for people.
        urgent: Start the grace period, as a signal to the agents would, without a signal that also hits the ranks.
    """
    request = StopRequest(reason=reason, by=by, time=time.time())
    return request.changed(urgent=True) if urgent else request


def write_stop(run_dir: Path, reason: StopReason, by: str, *, urgent: bool = False) -> None:
    """Leaves a request of now (see `stop_request`) in the run directory; RunDirError when it cannot be written."""
    write_json(RunPaths(run_dir).stop, stop_request(reason, by, urgent=urgent))


def read_stop(run_dir: Path) -> StopRequest | None:
    """The stop request, None when there is none. An empty or damaged file is a request of the user's."""
    try:
        found = read_json(RunPaths(run_dir).stop)
    except RunDirError:
        found = {}
    return None if found is None else StopRequest.from_json(found)


def clear_stop(run_dir: Path) -> None:
    """Removes the stop request, if there is one."""
    RunPaths(run_dir).stop.unlink(missing_ok=True)
