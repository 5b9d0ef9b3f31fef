"""`tuneyard plan`: what would run, whether it fits, and why."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli.options import job_argument, json_option, quoted
from launcher.cli.output import make_console, print_json, print_plan
from launcher.cli.planning import load_and_plan


@click.command()
@job_argument
@json_option
def plan(job_file: Path, as_json: bool) -> None:
    """Print what would run, whether it fits, and why. Writes nothing."""
    _, made = load_and_plan(job_file)
    if as_json:
        print_json(made.as_json())
        return
    print_plan(made, make_console())
    click.echo(f"\nNext: tuneyard check {quoted(job_file)}, or tuneyard submit {quoted(job_file)}")
