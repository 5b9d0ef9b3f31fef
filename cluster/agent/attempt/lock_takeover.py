"""Taking a run over from an agent of an earlier life of the same job, which its scheduler believes to be dead.

A scheduler that lost sight of a node starts the job again elsewhere. The old agent may live on, and hold the lock:
it is asked to save and leave, and only its leaving lets the new one begin.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS
from cluster.run.lock import AgentLock, LockHeldError
from rundir.attempts import newest_attempt
from rundir.outcome import StopReason
from rundir.plan import read_launch
from rundir.stop import read_stop, write_stop

_MORE_SECONDS = 120.0


@contextlib.contextmanager
def taken_over(run_dir: Path, generation: str, submitted: float | None) -> Iterator[AgentLock]:
    """The lock on a run, taken from an older life of the same submission if it must be; held within the block."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(AgentLock(run_dir))
        except LockHeldError:
            if not _is_older_life(run_dir, generation, submitted):
                raise
            lock = stack.enter_context(_asked_for(run_dir, generation))
        yield lock


def _is_older_life(run_dir: Path, generation: str, submitted: float | None) -> bool:
    """Whether the living agent belongs to the same submit as we do, in another life of its job."""
    last = newest_attempt(run_dir)
    same = last is not None and submitted is not None and last.submitted == submitted
    return same and bool(generation) and last is not None and last.generation not in ("", generation)


def _asked_for(run_dir: Path, generation: str) -> AgentLock:
    """Asks the living agent to save and leave; a lock that waits long enough for that."""
    grace_seconds = read_launch(run_dir).grace_seconds
    if read_stop(run_dir) is None:
        write_stop(run_dir, StopReason.PREEMPTED, f"its job lives on as {generation}")
    print("agent: waiting for the agent of an earlier life of this job to leave", file=sys.stderr)
    return AgentLock(run_dir, grace_seconds + TERM_TO_KILL_SECONDS + _MORE_SECONDS)
