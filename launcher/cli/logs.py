"""`tuneyard logs`: what a run printed."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli._options import last_run_argument, quoted, run_dir_of
from launcher.errors import JobError
from launcher.runs.read import backend_name
from rundir.plan import read_plan


@click.command()
@last_run_argument
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
    _refuse_unknown_rank(run_dir, rank)
    said = False
    for line in where.logs(run_dir, rank=rank, attempt=attempt, follow=follow):
        said = True
        click.echo(line)
    if not said:
        who = "the attempt" if rank is None else f"rank {rank}"
        click.echo(f"{who} has printed nothing; an attempt that ends before training has no ranks", err=True)


def _refuse_unknown_rank(run_dir: Path, rank: int | None) -> None:
    launch = read_plan(run_dir).launch
    ranks = launch.nodes * launch.ranks_per_node
    if rank is not None and rank >= ranks:
        has = f"ranks 0 to {ranks - 1}" if ranks > 1 else "rank 0 only"
        raise JobError(f"{run_dir.name} has no rank {rank}", f"It has {has}.")
