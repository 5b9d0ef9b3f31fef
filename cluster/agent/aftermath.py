"""What becomes of a run whose agents have gone: the newest record, with the policy's word upon it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cluster.agent.attempt import close_abandoned
from cluster.agent.launch import Launch
from cluster.lock import AgentLock
from cluster.policy import decide
from cluster.rundir import put_attempt, read_attempts, read_plan


def settle(run_dir: Path, lock: AgentLock) -> dict[str, Any]:
    """The newest record, closed and judged; empty when there is none. Only the holder of the lock may ask."""
    close_abandoned(run_dir, lock.previous)
    records = read_attempts(run_dir)
    if not records:
        return {}
    return records[-1] if records[-1].get("decision") else _judged(run_dir, records)


def _judged(run_dir: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The policy's word upon a record that was abandoned; it is kept there."""
    decision = decide(records, Launch.from_plan(read_plan(run_dir)).restart, time.time())
    judged = {**records[-1], "decision": decision.as_json()}
    put_attempt(run_dir, judged)
    return judged
