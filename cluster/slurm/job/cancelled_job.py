"""A job that was ended by plain `scancel`: its agents took for a preemption what the user asked for.

SLURM's SIGTERM does not say whose it is; the job's last state does, to whoever asks later. That is the next `submit`,
or, where a site forbids requeueing, the continuation that waits as a job of its own, and that `scancel` of the present
one lets start: its script runs `python -m cluster.slurm.job.cancelled_job RUN_DIR JOB`, and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.agent.attempt import close_abandoned
from cluster.agent.outcome import FAILED
from cluster.contract import ClusterError, Outcome
from cluster.lock import AgentLock
from cluster.policy import STOP, Decision
from cluster.rundir import put_attempt, read_attempts

_LOCK_SECONDS = 60.0
STOPPED = Outcome.STOPPED.value
_SPEAK_FOR_THEMSELVES = (Outcome.FINISHED, Outcome.FATAL, Outcome.STOPPED)


def main(arguments: list[str]) -> int:
    """The continuation's part."""
    run_dir, job = Path(arguments[0]), arguments[1]
    try:
        note_cancelled(run_dir, job)
    except ClusterError as error:
        print(f"cancelled: {error}", file=sys.stderr)
        return FAILED
    print(f"job {job} was cancelled by hand, so its continuation ends, too")
    return 0


def note_cancelled(run_dir: Path, job: str) -> None:
    """Closes the last attempt as stopped, unless it had ended by itself; one that never began has nothing to say."""
    with AgentLock(run_dir, _LOCK_SECONDS) as lock:
        close_abandoned(run_dir, lock.previous)
        last = next(reversed(read_attempts(run_dir)), None)
        if last is None or last["outcome"] in _SPEAK_FOR_THEMSELVES:
            return
        cause = f"job {job} was cancelled; {last.get('cause') or ''}".rstrip("; ")
        decision = Decision(STOP, f"the run was stopped on request: scancel of job {job}")
        put_attempt(run_dir, {**last, "outcome": STOPPED, "cause": cause, "decision": decision.as_json()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
