"""Taking a run over from an agent of an earlier life of the same job, which its scheduler believes to be dead.

A scheduler that lost sight of a node starts the job again elsewhere. The old agent may live on, and hold the lock:
it is asked to save and leave, and only its leaving lets the new one begin.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.agent.launch import Launch
from cluster.agent.phases import TERM_TO_KILL_SECONDS
from cluster.lock import AgentLock, LockHeldError
from cluster.rundir import read_attempts, read_plan, read_stop, write_stop

_MORE_SECONDS = 120.0


class taken_over:  # noqa: N801
    """The lock on a run, taken from an older life of the same submission if it must be. A context manager."""

    def __init__(self, run_dir: Path, generation: str, submitted: float | None) -> None:
        self._run_dir = run_dir
        self._generation = generation
        self._submitted = submitted
        self._lock = AgentLock(run_dir)

    def __enter__(self) -> AgentLock:
        try:
            return self._lock.__enter__()
        except LockHeldError:
            if not self._is_ours():
                raise
        return self._ask_and_wait()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)

    def _is_ours(self) -> bool:
        """Whether the living agent belongs to the same submit as we do, in another life of its job."""
        records = read_attempts(self._run_dir)
        last = records[-1] if records else {}
        same = self._submitted is not None and last.get("submitted") == self._submitted
        return same and bool(self._generation) and last.get("generation") not in (None, self._generation)

    def _ask_and_wait(self) -> AgentLock:
        grace_seconds = Launch.from_plan(read_plan(self._run_dir)).grace_seconds
        if read_stop(self._run_dir) is None:
            write_stop(self._run_dir, "preempted", f"its job lives on as {self._generation}")
        print("agent: waiting for the agent of an earlier life of this job to leave", file=sys.stderr)
        self._lock = AgentLock(self._run_dir, grace_seconds + TERM_TO_KILL_SECONDS + _MORE_SECONDS)
        return self._lock.__enter__()
