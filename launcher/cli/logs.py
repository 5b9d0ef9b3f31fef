"""`tuneyard logs`: what a run printed."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli.options import quoted, run_argument, run_dir_of
from launcher.errors import JobError
from launcher.rundata import backend_name


@click.command()
@run_argument
@click.option("--rank", type=click.IntRange(min=0), help="One rank's own log; otherwise agent, phases and rank 0.")
@click.option("--attempt", type=click.IntRange(min=0), help="Which attempt; the newest when not given.")
@click.option("--follow", is_flag=True, help="Go on until the attempt has ended.")
def logs(run_name: str, runs_dir: Path, rank: int | None, attempt: int | None, follow: bool) -> None:
    """Print a run's logs."""
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    if where.status(run_dir).attempt is None:
        raise JobError(
            f"{run_dir} has not been started, so it has no logs", f"Start it: tuneyard resume {quoted(run_dir)}"
        )
    for line in where.logs(run_dir, rank=rank, attempt=attempt, follow=follow):
        click.echo(line)
