"""From the policy's decision to the next attempt: here, or elsewhere by a scheduler, or not at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from cluster.agent.attempt import Attempt
from cluster.agent.crew import Crew
from cluster.agent.launch import Launch
from cluster.agent.outcome import GAVE_UP, RESTART_ME, exit_code
from cluster.agent.stopping import StopWishes
from cluster.contract import ClusterError, Outcome
from cluster.policy import STOP, Decision, decide
from cluster.rundir import read_attempts, read_plan

SUBMITTED = "TUNEYARD_SUBMITTED"
"""Unix seconds of the `submit` that this agent belongs to, the same after a scheduler has requeued it."""
SCHEDULER = "TUNEYARD_SCHEDULER"
"""Set where somebody starts an agent that exits with 75 again, and can do so on another node."""
_POLL_SECONDS = 0.1


def submission(environment: Mapping[str, str]) -> float | None:
    """When the run was submitted; None when nobody says, as when a person starts an agent by hand."""
    try:
        return float(environment[SUBMITTED])
    except (KeyError, ValueError):
        return None


def stopped_already(run_dir: Path, submitted: float | None) -> int | None:
    """The exit code for an agent that a scheduler started although the run had ended; else None.

    It also bounds agents that die without a word: nobody asked the policy about their attempts.
    """
    records = read_attempts(run_dir)
    if submitted is None or not records or records[-1].get("submitted") != submitted:
        return None
    try:
        limits = Launch.from_plan(read_plan(run_dir)).restart
    except ClusterError:
        return None  # the attempt will say so in its record
    decision = decide(records, limits, time.time())
    if decision.action != STOP:
        return None
    code = exit_code(Outcome(records[-1]["outcome"]), decision.action)
    return GAVE_UP if code == RESTART_ME else code  # who starts a stopped run again must not do so for ever


def node_must_change(decision: Decision, environment: Mapping[str, str], crew: Crew) -> bool:
    """Whether the next attempt belongs on other nodes, and there is somebody who can take it there."""
    ours, gone = crew.node.names, crew.released or bool(crew.lost)
    return SCHEDULER in environment and (gone or any(node.node in ours for node in decision.exclude))


def wait_for_restart(attempt: Attempt, decision: Decision, wishes: StopWishes, crew: Crew) -> bool:
    """Lets the back-off pass; False when somebody wants the run to stop, or this agent to leave."""
    deadline = time.monotonic() + decision.wait_seconds
    while (stop := wishes.poll()) is None:
        if time.monotonic() >= deadline:
            return True
        crew.beat()
        time.sleep(_POLL_SECONDS)
    if stop["reason"] == "stopped":
        attempt.amend(Decision(STOP, f"stopped before it was restarted: {stop.get('by') or 'stop file'}"))
    return False
