"""`python -m cluster.slurm.job.post_job RUN_DIR GENERATION WARNING`: what happens when the job's agents have gone.

Prints `again` or `leave`, the job's exit code, and the nodes that must not be used, with commas. It runs in the
job's own environment, perhaps a container; the script acts upon it where `scontrol` is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.agent.attempt.finalize import settle
from cluster.agent.attempt.restart import stopped_already, submission
from cluster.agent.process.node import GENERATION
from cluster.run.lock import AgentLock
from rundir.attempts import newest_attempt
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, RESTART_ME

AGAIN, LEAVE = "again", "leave"
NO_WARNING = "none"
_LOCK_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """Prints the answer. An error leaves the job as it is: nobody may start a job for ever that cannot begin."""
    run_dir, generation, warning = Path(arguments[0]), arguments[1], arguments[2]
    os.environ[GENERATION] = generation
    try:
        with AgentLock(run_dir, _LOCK_SECONDS) as lock:
            settle(run_dir, lock)
            print(answer(run_dir, generation, warned=warning != NO_WARNING))
    except TuneyardError as error:
        print(f"after: {error}", file=sys.stderr)
        print(f"{LEAVE} {AGENT_FAILED}")
    return 0


def answer(run_dir: Path, generation: str, *, warned: bool) -> str:
    """The line for the script."""
    last = newest_attempt(run_dir)
    if last is None or last.outcome is None or last.generation != generation:
        code = stopped_already(run_dir, submission(os.environ))
        # no attempt since the job started: the run is over, or we were told to leave at once, or the agent cannot start
        return (
            f"{AGAIN} {RESTART_ME}" if code is None and warned else f"{LEAVE} {AGENT_FAILED if code is None else code}"
        )
    again, nodes = last.decision.restarts, ",".join(node.node for node in last.decision.exclude)
    return f"{AGAIN if again else LEAVE} {last.outcome.agent_exit_code(again)} {nodes}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
