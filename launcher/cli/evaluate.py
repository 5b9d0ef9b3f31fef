"""`tuneyard evaluate`: prompts answered by a run's model, and scored."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.rundir import read_json
from launcher.cli.options import json_option, quoted, run_argument, run_dir_of
from launcher.cli.output import make_echo, print_json
from launcher.trainer_process import require_trainer, run_trainer


@click.command()
@run_argument
@click.option("--model", type=click.Path(path_type=Path, exists=True), help="A model; RUN/model when not given.")
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), help="JSONL; the job's when not given.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; RUN/evaluation.json otherwise.")
@json_option
def evaluate(
    run_name: str,
    runs_dir: Path,
    model: Path | None,
    prompts: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Let a run's model answer prompts, and score the answers."""
    run_dir = run_dir_of(run_name, runs_dir)
    require_trainer()
    options = {"--model": model, "--prompts": prompts, "--output": output}
    given = [part for name, value in options.items() if value for part in (name, str(value.absolute()))]
    run_trainer("evaluate", run_dir, *given, on_line=make_echo(stderr=as_json))
    written = output or run_dir / "evaluation.json"
    result = read_json(written) or {}
    if as_json:
        print_json(result)
    else:
        click.echo(f"exact match {result.get('exact_match')} over {result.get('prompts')} prompts: {written}")
        click.echo(f"Next: tuneyard report {quoted(run_dir)}")
