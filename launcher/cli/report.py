"""`tuneyard report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.calibration.observed import record_run
from launcher.cli._options import json_option, last_run_argument, run_dir_of
from launcher.cli._output import print_json
from launcher.report.html import write_report


@click.command()
@last_run_argument
@json_option
def report(run_name: str, runs_dir: Path, as_json: bool) -> None:
    """Write a run's report as one HTML file that needs no network."""
    run_dir = run_dir_of(run_name, runs_dir)
    record_run(run_dir)
    path = write_report(run_dir)
    if as_json:
        print_json({"report": str(path)})
    else:
        click.echo(f"report: {path}\nNext: open it in a browser")
