"""Wait for a run to end, with a progress line."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from cluster import Status, backend
from launcher.cli._meter import Meter
from launcher.runs.read import backend_name
from rundir.progress import read_progress

LOOK_SECONDS = 0.5


def wait_until_left(run_dir: Path, console: Console) -> Status:
    """Wait until a run that was asked to stop has ended, and return its status. Ctrl-C only ends the waiting."""
    where = backend(backend_name(run_dir))
    began = time.monotonic()
    with Meter(console) as meter:
        while (status := where.wait(run_dir, LOOK_SECONDS)).state.is_alive:
            progress = read_progress(run_dir)
            step = f" at step {progress.step}" if progress.step else ""
            message = f"until the run has saved and left; it is {progress.state or status.state}{step}"
            meter.show("waiting", facts=message, begun_seconds=time.monotonic() - began)
    return status
