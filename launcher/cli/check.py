"""`tuneyard check`: the preflight report of the data, before anything is asked of a GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from launcher.cli.options import job_argument, json_option, quoted
from launcher.cli.output import make_console, print_json
from launcher.cli.planning import load_and_plan
from launcher.cli.preparing import prepare
from launcher.cli.submit import require_hub_model
from launcher.runs import write_run
from launcher.trainer_process import require_trainer


@click.command()
@job_argument
@json_option
def check(job_file: Path, as_json: bool) -> None:
    """Tokenise the data and print the preflight report. Trains nothing, keeps nothing."""
    loaded, plan = load_and_plan(job_file, files_here=True)
    require_trainer()
    require_hub_model(plan, loaded)
    with tempfile.TemporaryDirectory(prefix="tuneyard-check-") as scratch:
        run_dir = Path(scratch)
        (run_dir / "logs").mkdir()
        write_run(run_dir, job_file.read_bytes(), plan)
        preflight = prepare(run_dir, make_console(stderr=as_json))
    if as_json:
        print_json(preflight)
    else:
        click.echo(f"Next: tuneyard submit {quoted(job_file)}")
