"""The leader as its workers see it: through the command that it renews all the time."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.agent.multinode.messages import Command, read_command
from cluster.liveness import LivenessTimeout
from rundir.plan import LaunchSpec


class LeaderMonitor:
    """Reads the leader's commands. `gone` says so once there has been no sign of life for too long."""

    def __init__(self, run_dir: Path, generation: str, launch: LaunchSpec) -> None:
        self.gone = ""
        self._run_dir = run_dir
        self._generation = generation
        self._timeout = LivenessTimeout(launch.silence_seconds)
        self._joining = LivenessTimeout(max(launch.join_seconds, launch.silence_seconds))

    def newest_command(self) -> Command | None:
        """The leader's newest command; None before its first one."""
        command, now = read_command(self._run_dir, self._generation), time.monotonic()
        timeout = self._joining if command is None else self._timeout
        if timeout.has_passed(command and (command.sequence_number, command.beat), now):
            self.gone = f"no sign of the leader for {timeout.limit_seconds:.0f} s"
        return command
