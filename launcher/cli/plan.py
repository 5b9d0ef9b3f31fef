"""`tuneyard plan`: what would run, whether it fits, and why."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli._options import job_argument, json_option, no_correction_option, quoted, runs_option
from launcher.cli._output import make_console, print_json
from launcher.cli._planning import calibration_of, load_and_plan, machine_for
from launcher.cli._show_plan import print_comparison, print_plan
from launcher.dataset.token_counts import find_counted_size
from launcher.model.hub import hub_problem
from launcher.planner.ask.what_if import compare, engines_in
from launcher.runs.directory import list_runs
from launcher.site.job import load_job


@click.command()
@job_argument
@click.option(
    "--gpu", default=None, metavar="8xH100-80", help="Plan as if on these GPUs; without a number, any number."
)
@click.option(
    "--compare", "engines", default=None, metavar="zero3,fsdp2", help="The best plans of engines, side by side."
)
@no_correction_option
@runs_option
@json_option
def plan(
    job_file: Path, gpu: str | None, engines: str | None, no_correction: bool, runs_dir: Path, as_json: bool
) -> None:
    """Print what would run, whether it fits, and why. Writes nothing."""
    if engines is not None:
        _compare(job_file, gpu, engines, runs_dir, not no_correction, as_json)
        return
    _, made = load_and_plan(job_file, gpu, runs_dir=runs_dir, corrected=not no_correction)
    if as_json:
        print_json(made.as_json())
        return
    print_plan(made, make_console())
    if gpu is None:
        if words := hub_problem(made.trainer.model_dump(mode="json"), made.launch):
            click.echo(f"\nIt cannot be submitted: {words}")
        click.echo(f"\nNext: tuneyard check {quoted(job_file)}, or tuneyard submit {quoted(job_file)}")


def _compare(job_file: Path, gpu: str | None, engines: str, runs_dir: Path, corrected: bool, as_json: bool) -> None:
    loaded = load_job(job_file)
    names = engines_in(engines)
    job, machine, profile = machine_for(loaded, gpu)
    counted = find_counted_size(list_runs(runs_dir), job)
    found = compare(job, machine, names, profile, calibration_of(profile, runs_dir, corrected), counted)
    if as_json:
        print_json({"compared": [one.as_json() for one in found]})
    else:
        print_comparison(found, make_console())
