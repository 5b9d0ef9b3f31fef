"""`tuneyard stop`: save at the next step and leave."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli._follow import next_step
from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._waiting import wait_until_left
from launcher.errors import JobError
from launcher.interrupts import exit_code_of
from launcher.runs.read import backend_name
from rundir.errors import EXIT_OK
from rundir.outcome import Outcome


@click.command()
@run_argument
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the run has left.")
@json_option
def stop(run_name: str, runs_dir: Path, wait: bool, as_json: bool) -> int:
    """Ask a run to save at the next step boundary and leave, and wait until it has. It can be resumed."""
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    state = where.status(run_dir).state
    if state not in ("queued", "running"):
        raise JobError(f"{run_dir} is not running", f"See tuneyard status {quoted(run_dir)}")
    if state == "queued":  # nothing runs that could save, and nobody would read the wish before hours have passed
        where.cancel(run_dir)
    else:
        where.stop(run_dir)
    try:
        outcome = wait_until_left(run_dir, make_console(stderr=as_json)).outcome if wait or state == "queued" else None
    except KeyboardInterrupt as error:
        click.echo(f"\nIt will stop all the same. Next: tuneyard status {quoted(run_dir)}", err=True)
        return exit_code_of(error)
    if as_json:
        print_json({"run": str(run_dir), "stopping": outcome is None, "outcome": outcome})
        return EXIT_OK
    click.echo(f"outcome: {outcome}" if outcome else "asked to save and stop at the next step boundary")
    click.echo(_next(run_dir, outcome))
    return EXIT_OK


def _next(run_dir: Path, outcome: Outcome | None) -> str:
    if outcome is None:
        return f"Next: tuneyard resume {quoted(run_dir)} waits for that, and goes on"
    return next_step(run_dir, outcome)
