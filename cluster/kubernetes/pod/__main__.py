"""`python -m cluster.kubernetes.pod RUN_DIR`: the first process of a pod of a run.

Exit code: 0 the run is finished; 75 this pod has to go, and another one should take its place; 2 fatal; 3 the policy
gave up; 4 stopped by the user; 1 the agent cannot even begin.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.errors import ClusterError
from cluster.kubernetes.pod.completion import FATAL, report
from cluster.kubernetes.pod.membership.identity import pod_identity
from cluster.kubernetes.pod.process.log import PodLog
from cluster.kubernetes.pod.process.signals import Signals
from cluster.kubernetes.pod.supervisor import Supervisor
from rundir.errors import TuneyardError
from rundir.paths import PLAN

_APPEAR_SECONDS = 150.0
_POLL_SECONDS = 0.5


def main(arguments: list[str]) -> int:
    """The pod's exit code."""
    if len(arguments) != 1:
        print("usage: python -m cluster.kubernetes.pod RUN_DIR", file=sys.stderr)
        return FATAL
    run_dir, signals = Path(arguments[0]).resolve(), Signals()
    signals.listen()
    try:
        identity = pod_identity(os.environ)
        wait_for_run_directory(run_dir, signals)
    except TuneyardError as error:
        print(f"pod: {error}: {error.remedy}", file=sys.stderr)
        return FATAL
    log = PodLog(f"pod {identity.index}")
    code = Supervisor(run_dir, identity, signals, log).run()
    log.info(f"leaving with {code}")
    if identity.is_leader:
        _report(run_dir, identity.termination_log, log)
    return code


def wait_for_run_directory(run_dir: Path, signals: Signals) -> None:
    """Waits a little for a run that another node has just placed: storage may show it late."""
    deadline = time.monotonic() + _APPEAR_SECONDS
    while not (run_dir / PLAN).is_file():
        if signals.leaving or time.monotonic() > deadline:
            raise ClusterError(
                f"{run_dir}: no run lies there", "`tuneyard place` makes it; see the init container's log"
            )
        time.sleep(_POLL_SECONDS)


def _report(run_dir: Path, termination_log: str, log: PodLog) -> None:
    try:
        report(run_dir, termination_log)
    except OSError as error:
        log.info(f"the termination message could not be written: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
