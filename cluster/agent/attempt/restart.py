"""From the policy's decision to the next attempt: here, or elsewhere by a scheduler, or not at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from cluster.agent.attempt.record import Attempt
from cluster.agent.multinode.leader import WorkerGroup
from cluster.agent.process.stop_request import StopRequests
from cluster.run.restart_policy import decide
from rundir.attempts import Decision, read_attempts
from rundir.errors import RunDirError
from rundir.outcome import GAVE_UP, RESTART_ME, Outcome
from rundir.plan import read_launch

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
    if submitted is None or not records or records[-1].submitted != submitted:
        return None
    try:
        limits = read_launch(run_dir).restart
    except RunDirError:
        return None  # the attempt will say so in its record
    if not decide(records, limits, time.time()).stops:
        return None
    code = (records[-1].outcome or Outcome.CRASHED).agent_exit_code(restarts=False)
    return GAVE_UP if code == RESTART_ME else code  # who starts a stopped run again must not do so for ever


def node_must_change(decision: Decision, environment: Mapping[str, str], workers: WorkerGroup) -> bool:
    """Whether the next attempt belongs on other nodes, and there is somebody who can take it there."""
    ours, gone = workers.node.names, workers.released or bool(workers.departed)
    return SCHEDULER in environment and (gone or any(node.node in ours for node in decision.exclude))


def wait_for_restart(attempt: Attempt, decision: Decision, stop_requests: StopRequests, workers: WorkerGroup) -> bool:
    """Lets the back-off pass; False when somebody wants the run to stop, or this agent to leave."""
    deadline = time.monotonic() + decision.wait_seconds
    while (stop := stop_requests.poll()) is None:
        if time.monotonic() >= deadline:
            return True
        workers.beat()
        time.sleep(_POLL_SECONDS)
    if stop.is_users:
        attempt.amend(Decision.to_stop(f"stopped before it was restarted: {stop.who}"))
    return False
