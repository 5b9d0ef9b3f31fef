"""`tuneyard cancel`: end a run now."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli._follow import next_step
from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import watched
from launcher.errors import JobError
from launcher.runs.read import backend_name


@click.command()
@run_argument
@json_option
def cancel(run_name: str, runs_dir: Path, as_json: bool) -> None:
    """End a run now. It is saved if that fits into the grace period."""
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    if where.status(run_dir).state not in ("queued", "running"):
        raise JobError(f"{run_dir} is not running", f"See tuneyard status {quoted(run_dir)}")
    try:
        with watched(run_dir, make_console(stderr=True), "ending"):
            where.cancel(run_dir)
    except KeyboardInterrupt:
        click.echo(f"\nIt may end all the same. Next: tuneyard status {quoted(run_dir)}", err=True)
        raise
    outcome = where.status(run_dir).outcome
    if as_json:
        print_json({"run": str(run_dir), "outcome": outcome})
        return
    click.echo(f"cancelled; outcome: {outcome}\n{next_step(run_dir, outcome)}")
