"""Tokenising with something to look at, as `check` and `submit` do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.rundir import read_json
from launcher.cli.output import print_preflight
from launcher.trainer_process import run_trainer


def prepare(run_dir: Path, console: Console) -> dict[str, Any]:
    """Tokenises the run's data, prints the preflight report, and gives it.

    Raises:
        JobError: the data is wrong; the trainer has said how.
        RunFailedError: it broke.
    """
    if console.is_terminal:
        with console.status("tokenising") as status:
            run_trainer("prepare", run_dir, on_line=lambda line: status.update(_short(line)))
    else:
        console.print("tokenising")
        run_trainer("prepare", run_dir, on_line=lambda line: None)
    preflight = read_json(run_dir / "data" / "preflight.json") or {}
    print_preflight(preflight, console)
    return preflight


def _short(line: str) -> str:
    """The line if it says something; brackets of a JSON report do not."""
    return line if line.strip("{}[], ") and not line.startswith(" ") else "tokenising"
