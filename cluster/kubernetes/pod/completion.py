"""When a run is over, with which exit code its pods leave, and what the head's pod says last.

The record is the truth. An agent's exit code only says that the record should be read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.agent.attempt import ASKED_FOR, Attempt, close_abandoned
from cluster.agent.node import NODE_RANK, NODES
from cluster.agent.outcome import GAVE_UP, stopped
from cluster.contract import Outcome
from cluster.kubernetes.pod.membership.identity import Post
from cluster.lock import AgentLock, LockHeldError
from cluster.policy import STOP as LEAVE_IT
from cluster.policy import Limits
from cluster.rundir import STOP, clear_stop, read_attempts, read_progress, read_stop

FINISHED, FATAL, STOPPED = 0, 2, 4
MOST_MESSAGE_BYTES = 4000
"""Kubernetes keeps 4096 bytes of a termination message."""
_CODES = {Outcome.FINISHED: FINISHED, Outcome.FATAL: FATAL, Outcome.STOPPED: STOPPED}
_USERS = "stopped"
_CAUSE_CHARACTERS = 1500
_LOCK_SECONDS = 0.2

Record = Mapping[str, Any]


def submission_of(run_dir: Path, given: float | None) -> float:
    """The submit that attempts belong to. Without one, as after a plain `helm install`, a run has a single one."""
    records = read_attempts(run_dir)
    return given or (records[-1].get("submitted") if records else None) or time.time()


def end_of(run_dir: Path, submitted: float | None) -> int | None:
    """The exit code of every pod of a run that is over; None while it may go on."""
    last = _last(run_dir, submitted)
    if last.get("outcome") is None or (last.get("decision") or {}).get("action") != LEAVE_IT:
        return None
    return _CODES.get(Outcome(last["outcome"]), GAVE_UP)


def is_trained(run_dir: Path, submitted: float | None) -> bool:
    """Whether this submission has trained: only pod 0 is needed from then on, and the others have done their part."""
    records = read_attempts(run_dir)
    return any(one.get("trained") for one in records if submitted is None or one.get("submitted") == submitted)


def users_wish(run_dir: Path, submitted: float | None) -> dict[str, Any] | None:
    """The user's wish to stop this run, if it is there and no attempt has ended by it yet."""
    stop = read_stop(run_dir)
    if stop is None or stop["reason"] != _USERS or _was_granted(run_dir, stop):
        return None
    if "time" not in stop:
        return stop if _is_new_touch(run_dir) else None
    if submitted is not None and not _last(run_dir, submitted) and _number(stop["time"]) <= submitted:
        return None  # of an earlier submit
    return stop


def grant(run_dir: Path, post: Post) -> bool:
    """Ends the run as the user wishes when no agent is there to do it; False when one may be."""
    os.environ.update({NODES: post.node, NODE_RANK: "0"})  # the record names the node that wrote it
    try:
        with AgentLock(run_dir, _LOCK_SECONDS) as lock:
            close_abandoned(run_dir, lock.previous)
            if (stop := users_wish(run_dir, post.submitted)) is not None:
                Attempt(run_dir, submission_of(run_dir, post.submitted)).close(stopped(stop), Limits())
    except LockHeldError:
        return False
    return True


def clear_granted(run_dir: Path, submitted: float | None) -> None:
    """Removes a wish to stop that the next attempt must not meet. Only for the holder of the lock."""
    if users_wish(run_dir, submitted) is None:
        clear_stop(run_dir)


def termination_message(run_dir: Path) -> str:
    """The newest attempt in short, as the pod's termination message: JSON of less than 4096 bytes."""
    records = read_attempts(run_dir)
    record = records[-1] if records else {}
    decision, limit = record.get("decision") or {}, _CAUSE_CHARACTERS
    while len(text := json.dumps(_shortened(record, decision, limit))) > MOST_MESSAGE_BYTES:
        limit //= 2
    return text


def ledger_line(run_dir: Path) -> str:
    """All attempts and where the trainer is, on one line: what is known of a run whose pods nobody can look into."""
    whole = {"ledger": read_attempts(run_dir), "progress": read_progress(run_dir) or {}}
    return f"tuneyard: {json.dumps(whole)}"


def report(run_dir: Path, termination_log: str) -> None:
    """The last words of the head's pod: on stdout, and where Kubernetes looks for them."""
    print(ledger_line(run_dir), flush=True)
    path = Path(termination_log)
    if path.exists():
        path.write_text(termination_message(run_dir), encoding="utf-8")


def _last(run_dir: Path, submitted: float | None) -> Record:
    """The newest attempt of this submission."""
    records = read_attempts(run_dir)
    last = records[-1] if records else {}
    return last if submitted is None or last.get("submitted") == submitted else {}


def _was_granted(run_dir: Path, stop: Record) -> bool:
    return "time" in stop and any(record.get("stop_time") == stop["time"] for record in read_attempts(run_dir))


def _is_new_touch(run_dir: Path) -> bool:
    """Whether an empty file is a user's wish, and not what an agent on a full disk left when it was told to leave."""
    try:
        is_empty = (run_dir / STOP).stat().st_size == 0
    except OSError:
        return False
    return is_empty and _last(run_dir, None).get("outcome") not in ASKED_FOR


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _shortened(record: Record, decision: Record, limit: int) -> dict[str, Any]:
    names = ("attempt", "outcome", "cause", "last_step", "last_checkpoint_step")
    short = {name: _cut(record.get(name), limit) for name in names}
    return {**short, "decision": {name: _cut(decision.get(name), limit) for name in ("action", "reason")}}


def _cut(value: Any, limit: int) -> Any:
    return value[:limit] if isinstance(value, str) else value
