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
from cluster.kubernetes.pod.membership.identity import this_post
from cluster.kubernetes.pod.process.log import Words
from cluster.kubernetes.pod.process.signals import Signals
from cluster.kubernetes.pod.supervisor import Pod
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
        post = this_post(os.environ)
        require_run(run_dir, signals)
    except TuneyardError as error:
        print(f"pod: {error}: {error.remedy}", file=sys.stderr)
        return FATAL
    words = Words(f"pod {post.index}")
    code = Pod(run_dir, post, signals, words).live()
    words.say(f"leaving with {code}")
    if post.is_head:
        _report(run_dir, post.termination_log, words)
    return code


def require_run(run_dir: Path, signals: Signals) -> None:
    """Waits a little for a run that another node has just placed: storage may show it late."""
    deadline = time.monotonic() + _APPEAR_SECONDS
    while not (run_dir / PLAN).is_file():
        if signals.leaving or time.monotonic() > deadline:
            raise ClusterError(
                f"{run_dir}: no run lies there", "`tuneyard place` makes it; see the init container's log"
            )
        time.sleep(_POLL_SECONDS)


def _report(run_dir: Path, termination_log: str, words: Words) -> None:
    try:
        report(run_dir, termination_log)
    except OSError as error:
        words.say(f"the last words could not be written: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
