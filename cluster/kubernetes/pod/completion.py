"""When a run is over, with which exit code its pods leave, and the termination message of pod 0.

The record is the truth. An agent's exit code only says that the record should be read.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from cluster.agent.attempt.record import Attempt, close_abandoned
from cluster.agent.process.node import NODE_RANK, NODES
from cluster.agent.verdict.outcome import stopped
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.run.lock import AgentLock, LockHeldError
from rundir.attempts import AttemptRecord, newest_attempt, read_attempts
from rundir.outcome import Outcome
from rundir.paths import RunPaths
from rundir.plan import RestartLimits
from rundir.progress import read_progress
from rundir.stop import StopRequest, clear_stop, read_stop

FINISHED, FATAL, STOPPED = 0, 2, 4
MOST_MESSAGE_BYTES = 4000
"""Kubernetes keeps 4096 bytes of a termination message."""
_CAUSE_CHARACTERS = 1500
_LOCK_SECONDS = 0.2


def submission_of(run_dir: Path, given: float | None) -> float:
    """The submit that attempts belong to. Without one, as after a plain `helm install`, a run has a single one."""
    records = read_attempts(run_dir)
    return given or (records[-1].submitted if records else None) or time.time()


def exit_code_of_run(run_dir: Path, submitted: float | None) -> int | None:
    """The exit code of every pod of a run that is over; None while it may go on."""
    last = _last(run_dir, submitted)
    if last is None or last.outcome is None or not last.decision.stops:
        return None
    return STOPPED if last.outcome is Outcome.STOPPED else last.outcome.agent_exit_code(restarts=False)


def is_trained(run_dir: Path, submitted: float | None) -> bool:
    """Whether this submission has trained: only pod 0 is needed from then on, and the others have done their part."""
    return any(one.trained for one in read_attempts(run_dir) if submitted in (None, one.submitted))


def stop_request(run_dir: Path, submitted: float | None) -> StopRequest | None:
    """The user's stop request, if there is one that no attempt has honored yet."""
    stop = read_stop(run_dir)
    if stop is None or not stop.is_users or _was_honored(run_dir, stop):
        return None
    if stop.time is None:
        return stop if _is_new_touch(run_dir) else None
    if submitted is not None and not _last(run_dir, submitted) and stop.time <= submitted:
        return None  # of an earlier submit
    return stop


def honor_stop(run_dir: Path, identity: PodIdentity) -> bool:
    """Records that the run is stopped when no agent is there to do it; False when one may be."""
    os.environ.update({NODES: identity.node, NODE_RANK: "0"})  # the record names the node that wrote it
    try:
        with AgentLock(run_dir, _LOCK_SECONDS) as lock:
            close_abandoned(run_dir, lock.previous)
            if (stop := stop_request(run_dir, identity.submitted)) is not None:
                Attempt(run_dir, submission_of(run_dir, identity.submitted)).close(stopped(stop), RestartLimits())
    except LockHeldError:
        return False
    return True


def clear_honored(run_dir: Path, submitted: float | None) -> None:
    """Removes a stop request that was honored, lest the next attempt meets it. Only for the holder of the lock."""
    if stop_request(run_dir, submitted) is None:
        clear_stop(run_dir)


def termination_message(run_dir: Path) -> str:
    """The newest attempt in short, as the pod's termination message: JSON of less than 4096 bytes."""
    record, limit = newest_attempt(run_dir) or AttemptRecord(), _CAUSE_CHARACTERS
    while len(text := json.dumps(record.in_short(limit))) > MOST_MESSAGE_BYTES:
        limit //= 2
    return text


def ledger_line(run_dir: Path) -> str:
    """All attempts and where the trainer is, on one line: what is known of a run whose pods nobody can look into."""
    whole = {
        "ledger": [record.to_json() for record in read_attempts(run_dir)],
        "progress": read_progress(run_dir).to_json(),
    }
    return f"tuneyard: {json.dumps(whole)}"


def report(run_dir: Path, termination_log: str) -> None:
    """Prints the ledger, and writes the termination message where Kubernetes reads it."""
    print(ledger_line(run_dir), flush=True)
    path = Path(termination_log)
    if path.exists():
        path.write_text(termination_message(run_dir), encoding="utf-8")


def _last(run_dir: Path, submitted: float | None) -> AttemptRecord | None:
    """The newest attempt of this submission."""
    last = newest_attempt(run_dir)
    return last if last is not None and submitted in (None, last.submitted) else None


def _was_honored(run_dir: Path, stop: StopRequest) -> bool:
    return stop.time is not None and any(record.stop_time == stop.time for record in read_attempts(run_dir))


def _is_new_touch(run_dir: Path) -> bool:
    """Whether an empty file is a user's request, and not what an agent on a full disk left when told to."""
    try:
        is_empty = RunPaths(run_dir).stop.stat().st_size == 0
    except OSError:
        return False
    last = _last(run_dir, None)
    return is_empty and not (last is not None and last.outcome is not None and last.outcome.was_requested)
