"""`python -m cluster.kubernetes.pod.prepare RUN_DIR NUM_PROC`: tokenises a run's data in a pod without GPUs.

Exit code: 0 the data are there; the peers are those of the run's own pods (docs/kubernetes-pod.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.agent.attempt.prepare import prepare
from cluster.agent.process.node import GENERATION, NODES
from cluster.kubernetes.pod.completion import FATAL, exit_code_of_run, report
from cluster.kubernetes.pod.membership.identity import PodIdentity, pod_identity
from cluster.run.lock import LockHeldError
from rundir.errors import TuneyardError
from rundir.outcome import RESTART_ME


def main(arguments: list[str]) -> int:
    """The container's exit code."""
    run_dir, num_proc = Path(arguments[0]).resolve(), int(arguments[1])
    try:
        identity = pod_identity(os.environ)
        os.environ |= {NODES: identity.node, GENERATION: f"{identity.uid}.0"}
        code = prepare(run_dir, num_proc)
    except LockHeldError as error:  # a pod of an earlier life saves, and leaves
        print(f"prepare: {error}", file=sys.stderr)
        return RESTART_ME
    except TuneyardError as error:
        print(f"prepare: {error}: {error.remedy}", file=sys.stderr)
        return FATAL
    return _leave(run_dir, identity) if code else 0


def _leave(run_dir: Path, identity: PodIdentity) -> int:
    """The data are not there: another pod tries again, unless the run is over by its record."""
    report(run_dir, identity.termination_log)
    over = exit_code_of_run(run_dir, identity.submitted)
    return RESTART_ME if over is None else over


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
