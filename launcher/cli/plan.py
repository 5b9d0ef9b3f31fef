"""`tuneyard plan`: what would run, whether it fits, and why."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli.options import job_argument, json_option, quoted
from launcher.cli.output import make_console, print_json
from launcher.cli.planning import load_and_plan, machine_for
from launcher.cli.showplan import print_comparison, print_plan
from launcher.jobfile import load_job
from launcher.whatif import compare, engines_in


@click.command()
@job_argument
@click.option(
    "--gpu", default=None, metavar="8xH100-80", help="Plan as if on these GPUs; without a number, any number."
)
@click.option(
    "--compare", "engines", default=None, metavar="zero3,fsdp2", help="The best plans of engines, side by side."
)
@json_option
def plan(job_file: Path, gpu: str | None, engines: str | None, as_json: bool) -> None:
    """Print what would run, whether it fits, and why. Writes nothing."""
    if engines is not None:
        _compare(job_file, gpu, engines, as_json)
        return
    _, made = load_and_plan(job_file, gpu)
    if as_json:
        print_json(made.as_json())
        return
    print_plan(made, make_console())
    if gpu is None:
        click.echo(f"\nNext: tuneyard check {quoted(job_file)}, or tuneyard submit {quoted(job_file)}")


def _compare(job_file: Path, gpu: str | None, engines: str, as_json: bool) -> None:
    loaded = load_job(job_file)
    names = engines_in(engines)
    job, machine, profile = machine_for(loaded, gpu)
    found = compare(job, machine, names, profile)
    if as_json:
        print_json({"compared": [one.as_json() for one in found]})
    else:
        print_comparison(found, make_console())
