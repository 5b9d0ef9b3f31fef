"""What becomes of a run whose agents have gone: the newest record, with the policy's word upon it."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.agent.attempt.record import close_abandoned
from cluster.run.lock import AgentLock
from cluster.run.restart_policy import decide
from rundir.attempts import AttemptRecord, put_attempt, read_attempts
from rundir.plan import read_launch


def settle(run_dir: Path, lock: AgentLock) -> AttemptRecord | None:
    """The newest record, closed and with the policy's decision; None when there is none.

    An agent that died has decided nothing: this does it in its place. Only the holder of the lock may ask.
    """
    close_abandoned(run_dir, lock.previous)
    records = read_attempts(run_dir)
    if not records or records[-1].decision:
        return records[-1] if records else None
    decided = records[-1].changed(decision=decide(records, read_launch(run_dir).restart, time.time()))
    put_attempt(run_dir, decided)
    return decided
