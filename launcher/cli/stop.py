"""`tuneyard stop`: save at the next step and leave."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli.options import json_option, quoted, run_argument, run_dir_of
from launcher.cli.output import print_json
from launcher.errors import JobError
from launcher.rundata import backend_name


@click.command()
@run_argument
@click.option("--wait", is_flag=True, help="Return when the attempt has ended.")
@json_option
def stop(run_name: str, runs_dir: Path, wait: bool, as_json: bool) -> None:
    """Ask a run to save at the next step boundary and leave. It can be resumed."""
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    state = where.status(run_dir).state
    if state not in ("queued", "running"):
        raise JobError(f"{run_dir} is not running", f"See tuneyard status {quoted(run_dir)}")
    if state == "queued":  # nothing runs that could save, and nobody would read the wish before hours have passed
        where.cancel(run_dir)
        wait = True
    else:
        where.stop(run_dir)
    outcome = where.wait(run_dir).outcome if wait else None
    if as_json:
        print_json({"run": str(run_dir), "stopping": outcome is None, "outcome": outcome})
        return
    click.echo(f"outcome: {outcome}" if outcome else "asked to save and stop at the next step boundary")
    click.echo(f"Next: tuneyard status {quoted(run_dir)}, then tuneyard resume {quoted(run_dir)}")
