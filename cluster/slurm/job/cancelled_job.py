"""A job that was ended by plain `scancel`: its agents took for a preemption what the user asked for.

SLURM's SIGTERM does not say whose it is; the job's last state does, to whoever asks later. That is the next `submit`,
or, where a site forbids requeueing, the continuation that waits as a job of its own, and that `scancel` of the present
one lets start: its script runs `python -m cluster.slurm.job.cancelled_job RUN_DIR JOB`, and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.agent.attempt.record import close_abandoned
from cluster.run.lock import AgentLock
from rundir.attempts import Decision, newest_attempt, put_attempt
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, Outcome

_LOCK_SECONDS = 60.0


def main(arguments: list[str]) -> int:
    """The continuation's part."""
    run_dir, job = Path(arguments[0]), arguments[1]
    try:
        note_cancelled(run_dir, job)
    except TuneyardError as error:
        print(f"cancelled: {error}", file=sys.stderr)
        return AGENT_FAILED
    print(f"job {job} was cancelled by hand, so its continuation ends, too")
    return 0


def note_cancelled(run_dir: Path, job: str) -> None:
    """Closes the last attempt as stopped, unless it had ended by itself; one that never began has nothing to say."""
    with AgentLock(run_dir, _LOCK_SECONDS) as lock:
        close_abandoned(run_dir, lock.previous)
        last = newest_attempt(run_dir)
        if last is None or (last.outcome is not None and last.outcome.is_terminal):
            return
        cause = f"job {job} was cancelled; {last.cause or ''}".rstrip("; ")
        decision = Decision.to_stop(f"the run was stopped on request: scancel of job {job}")
        put_attempt(run_dir, last.changed(outcome=Outcome.STOPPED, cause=cause, decision=decision))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
