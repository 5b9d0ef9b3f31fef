"""`python -m cluster.agent.prestop RUN_DIR`: a Kubernetes preStop hook.

Asks the agent to have the run saved, and returns when the agent has gone or its grace period is over.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS
from cluster.process_identity import signal_process
from cluster.run.lock import holder
from rundir.errors import TuneyardError
from rundir.outcome import StopReason
from rundir.plan import read_launch
from rundir.stop import read_stop, write_stop

_POLL_SECONDS = 0.1


def main(arguments: list[str]) -> int:
    """Exit code 0 when the agent has gone, 1 when it is still there or could not be asked."""
    if len(arguments) != 1:
        print("usage: python -m cluster.agent.prestop RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).resolve()
    try:
        seconds = read_launch(run_dir).grace_seconds + TERM_TO_KILL_SECONDS
        return 0 if ask_to_leave(run_dir, seconds) else 1
    except TuneyardError as error:
        print(f"prestop: {error}", file=sys.stderr)
        return 1


def ask_to_leave(run_dir: Path, seconds: float) -> bool:
    """Whether the agent has gone within this time."""
    who = holder(run_dir)
    if who is None:
        return True
    if read_stop(run_dir) is None:
        write_stop(run_dir, StopReason.PREEMPTED, "preStop")
    if who.is_here:
        signal_process(who, signal.SIGTERM)  # starts its grace period: a stop file alone has no time limit
    deadline = time.monotonic() + seconds
    while (gone := holder(run_dir) is None) is False and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
