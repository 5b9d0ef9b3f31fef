"""`tuneyard submit`: plan a job, start it, follow it."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from cluster import backend
from launcher.cli.follow import follow
from launcher.cli.options import detach_option, job_argument, json_option, quoted, runs_option
from launcher.cli.output import make_console, print_json, print_plan
from launcher.cli.planning import load_and_plan
from launcher.cli.preparing import prepare
from launcher.errors import EXIT_OK, JobError
from launcher.plan import Plan
from launcher.runs import new_run_dir, remove_run, write_run
from launcher.trainer_process import require_trainer


@click.command()
@job_argument
@runs_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write and start nothing.")
@detach_option
@json_option
def submit(job_file: Path, runs_dir: Path, dry_run: bool, detach: bool, as_json: bool) -> int:
    """Plan a job, start it, and follow it until it ends.

    Ctrl-C while the data is prepared leaves nothing behind; later it stops following, and the run goes on.
    """
    loaded, plan = load_and_plan(job_file)
    console = make_console(stderr=as_json)
    print_plan(plan, console)
    if dry_run:
        return _dry_run(plan, as_json)
    require_trainer()
    run_dir = new_run_dir(runs_dir, loaded.job.name)
    write_run(run_dir, job_file.read_bytes(), plan)
    _prepare(run_dir, console)
    handle = backend(loaded.job.cluster.profile).submit(run_dir)
    console.print(f"run {run_dir}", markup=False, highlight=False, soft_wrap=True)
    if not detach:
        return follow(run_dir, as_json=as_json)
    if as_json:
        print_json({"run": str(run_dir), "backend": handle.backend, "id": handle.id})
    else:
        click.echo(f"Next: tuneyard status {quoted(run_dir)}, or tuneyard logs {quoted(run_dir)} --follow")
    return EXIT_OK


def _dry_run(plan: Plan, as_json: bool) -> int:
    if as_json:
        print_json(plan.as_json())
    else:
        click.echo("\nDry run: nothing was written or started.")
    return EXIT_OK


def _prepare(run_dir: Path, console: Console) -> None:
    """Tokenises in the foreground: bad data is refused before anything starts, and leaves nothing behind."""
    try:
        prepare(run_dir, console)
    except JobError as error:
        remove_run(run_dir)
        raise JobError(error.message, "Nothing was started, and no run directory was kept.") from None
    except KeyboardInterrupt:
        remove_run(run_dir)
        click.echo("\nInterrupted before the start: no run directory was kept.", err=True)
        raise
