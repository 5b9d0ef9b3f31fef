"""`tuneyard place`: make a run directory where the run is going to be, from files that were brought there."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.replan.materialize import NODES_VARIABLE, POD_GPUS_VARIABLE, PodSetup, place_run
from rundir.errors import EXIT_OK


@click.command()
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option("--job", "job_file", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The job file.")
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    default=None,
    type=click.Path(path_type=Path),
    help="Its plan; none plans here.",
)
@click.option(
    "--base",
    metavar="DIR",
    default=None,
    type=click.Path(path_type=Path),
    help="What relative paths in the job file are relative to.  [default: the folder of RUN_DIR]",
)
@click.option("--nodes", type=click.IntRange(1), default=None, envvar=NODES_VARIABLE, help="Nodes that the run has.")
@click.option("--gpus", type=click.IntRange(0), default=None, envvar=POD_GPUS_VARIABLE, help="GPUs that each node has.")
def place(
    run_dir: Path, job_file: Path, plan_file: Path | None, base: Path | None, nodes: int | None, gpus: int | None
) -> int:
    """Make a run directory from a job file and its plan. Pods do this before they start.

    One that is there already is left alone when it holds the same job, and refused when it holds another one.
    """
    run_dir = run_dir.absolute()
    click.echo(place_run(run_dir, job_file, plan_file, PodSetup(base=base or run_dir.parent, nodes=nodes, gpus=gpus)))
    return EXIT_OK
