"""`tuneyard export`: a run's model in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import watched
from launcher.trainer_process import require_trainer, run_trainer


@click.command()
@run_argument
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint; the newest verified one when not given.")
@click.option("--merge", is_flag=True, help="Merge the adapters into the model.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; RUN/model when not given.")
@json_option
def export(run_name: str, runs_dir: Path, step: int | None, merge: bool, output: Path | None, as_json: bool) -> None:
    """Write a run's model in Hugging Face layout: the adapter, or the whole model."""
    run_dir = run_dir_of(run_name, runs_dir)
    require_trainer()
    arguments = ["--merge"] if merge else []
    arguments += ["--step", str(step)] if step is not None else []
    arguments += ["--output", str(output)] if output else []
    with watched(run_dir, make_console(stderr=True), "exporting") as meter:
        run_trainer("export", run_dir, *arguments, on_line=meter.print_line)
    model = output or run_dir / "model"
    if as_json:
        print_json({"run": str(run_dir), "model": str(model)})
    else:
        click.echo(f"model: {model}\nNext: tuneyard evaluate {quoted(run_dir)} --prompts FILE")
