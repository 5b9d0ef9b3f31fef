"""`tuneyard fetch`: a run's model on this machine, wherever the run was."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cluster import backend
from launcher.cli.options import json_option, quoted, run_argument, run_dir_of
from launcher.cli.output import print_json
from launcher.errors import JobError
from launcher.rundata import backend_name


@click.command()
@run_argument
@json_option
def fetch(run_name: str, runs_dir: Path, as_json: bool) -> None:
    """Bring a run's model to this machine, as RUN/model.

    Of a run on Kubernetes it lies on the claim, and comes in parts: after an interruption the same command goes on.
    Where the run directory is shared storage, the model is there already.
    """
    run_dir = run_dir_of(run_name, runs_dir)
    line = _Line()
    try:
        model = backend(backend_name(run_dir)).fetch_model(run_dir, line.tell)
    finally:
        line.end()
    if not model.is_dir():
        remedy = f"It is written when the run finishes; of a checkpoint: tuneyard export {quoted(run_dir)}"
        raise JobError(f"{run_dir.name} has no model yet", remedy)
    if as_json:
        print_json({"run": str(run_dir), "model": str(model)})
    else:
        click.echo(f"model: {model}\nNext: tuneyard evaluate {quoted(run_dir)} --prompts FILE")


class _Line:
    """One line that changes, where somebody looks."""

    def __init__(self) -> None:
        self._begun = False

    def tell(self, here_bytes: int, all_bytes: int) -> None:
        if sys.stderr.isatty():
            self._begun = True
            share = 100 * here_bytes / max(1, all_bytes)
            click.echo(f"\r{here_bytes / 1e6:,.0f} of {all_bytes / 1e6:,.0f} MB ({share:.0f} %)", nl=False, err=True)

    def end(self) -> None:
        if self._begun:
            click.echo(err=True)
