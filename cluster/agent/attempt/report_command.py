"""What is run once a run has ended, whoever is there to see it: the plan names it, and it writes the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.agent.process.launch import CODE
from rundir.errors import RunDirError
from rundir.plan import read_launch

MOST_SECONDS = 120.0


def run_afterwards(run_dir: Path, say: Callable[[str], None]) -> None:
    """Runs the plan's `launch.afterwards` with this Python and the run directory. It changes no outcome."""
    try:
        words = read_launch(run_dir).afterwards
    except RunDirError:
        return  # the record says so already
    if not words:
        return
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(CODE)]), "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *words, str(run_dir)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"afterwards: {error}")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        say(f"afterwards: {' '.join(words)} ended with {done.returncode}: {last}")
