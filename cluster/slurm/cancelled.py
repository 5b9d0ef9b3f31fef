"""`python -m cluster.slurm.cancelled RUN_DIR JOB`: a continuation finds that the job before it was cancelled by hand.

Where a site forbids requeueing, the next life of a run waits as a job of its own, and `scancel` of the present one
lets it start. It writes the user's wish into the record instead, and ends.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.agent.attempt import close_abandoned
from cluster.agent.outcome import FAILED
from cluster.contract import ClusterError, Outcome
from cluster.lock import AgentLock
from cluster.policy import STOP, Decision
from cluster.rundir import put_attempt, read_attempts

_LOCK_SECONDS = 60.0
_SPEAK_FOR_THEMSELVES = (Outcome.FINISHED, Outcome.FATAL)


def main(arguments: list[str]) -> int:
    """Closes the last attempt as stopped, unless it had ended by itself."""
    run_dir, job = Path(arguments[0]), arguments[1]
    try:
        with AgentLock(run_dir, _LOCK_SECONDS) as lock:
            close_abandoned(run_dir, lock.previous)
            note_cancelled(run_dir, job)
    except ClusterError as error:
        print(f"cancelled: {error}", file=sys.stderr)
        return FAILED
    return 0


def note_cancelled(run_dir: Path, job: str) -> None:
    """The record's last line says that the user stopped the run; a run that never began has nothing to say."""
    records = read_attempts(run_dir)
    if not records or records[-1].get("outcome") in _SPEAK_FOR_THEMSELVES:
        return
    last = records[-1]
    cause = f"job {job} was cancelled; {last.get('cause') or ''}".rstrip("; ")
    decision = Decision(STOP, f"the run was stopped on request: scancel of job {job}")
    stopped = {"outcome": Outcome.STOPPED.value, "cause": cause, "decision": decision.as_json()}
    put_attempt(run_dir, {**last, "ended": last.get("ended") or time.time(), **stopped})
    print(f"job {job} was cancelled by hand, so this continuation ends, too (pid {os.getpid()})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
