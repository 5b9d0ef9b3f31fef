"""`tuneyard fetch`: a run's model on this machine, wherever the run was."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import backend
from launcher.cli._meter import Meter
from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.errors import JobError
from launcher.runs.read import backend_name


@click.command()
@run_argument
@json_option
def fetch(run_name: str, runs_dir: Path, as_json: bool) -> None:
    """Bring a run's model to this machine, as RUN/model.

    Of a run on Kubernetes it lies on the claim, and comes in parts: after an interruption the same command goes on.
    Where the run directory is shared storage, the model is there already.
    """
    run_dir = run_dir_of(run_name, runs_dir)
    with Meter(make_console(stderr=True)) as meter:

        def tell(here_bytes: int, all_bytes: int) -> None:
            meter.show("fetching", here_bytes / 1e6, all_bytes / 1e6, unit="MB")

        model = backend(backend_name(run_dir)).fetch_model(run_dir, tell)
    if not model.is_dir():
        remedy = f"It is written when the run finishes; of a checkpoint: tuneyard export {quoted(run_dir)}"
        raise JobError(f"{run_dir.name} has no model yet", remedy)
    if as_json:
        print_json({"run": str(run_dir), "model": str(model)})
    else:
        click.echo(f"model: {model}\nNext: tuneyard evaluate {quoted(run_dir)} --prompts FILE")
