"""`tuneyard evaluate`: prompts answered by a run's model, and scored."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import watched
from launcher.errors import JobError
from launcher.trainer_process import require_trainer, run_trainer
from rundir.files import read_json


@click.command()
@run_argument
@click.option("--model", type=click.Path(path_type=Path, exists=True), help="A model; RUN/model when not given.")
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), help="JSONL; the job's when not given.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; RUN/evaluation.json otherwise.")
@click.option("--held-out", is_flag=True, help="Only the held-out loss of the newest checkpoint, in one process.")
@json_option
def evaluate(
    run_name: str,
    runs_dir: Path,
    model: Path | None,
    prompts: Path | None,
    output: Path | None,
    held_out: bool,
    as_json: bool,
) -> None:
    """Let a run's model answer prompts, and score the answers; or compute its held-out loss again."""
    run_dir = run_dir_of(run_name, runs_dir)
    require_trainer()
    if held_out:
        _held_out(run_dir, [model, prompts, output], as_json)
        return
    options = {"--model": model, "--prompts": prompts, "--output": output}
    given = [part for name, value in options.items() if value for part in (name, str(value.absolute()))]
    with watched(run_dir, make_console(stderr=True), "loading") as meter:
        run_trainer("evaluate", run_dir, *given, on_line=meter.print_line)
    written = output or run_dir / "evaluation.json"
    result = read_json(written) or {}
    if as_json:
        print_json(result)
    else:
        click.echo(f"exact match {result.get('exact_match')} over {result.get('prompts')} prompts: {written}")
        click.echo(f"Next: tuneyard report {quoted(run_dir)}")


def _held_out(run_dir: Path, others: list[Path | None], as_json: bool) -> None:
    if any(others):
        raise JobError("--held-out evaluates the run's own checkpoint and rows", "Leave the other options out.")
    with watched(run_dir, make_console(stderr=True), "loading") as meter:
        run_trainer("held_out", run_dir, on_line=meter.print_line)
    lines = (run_dir / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    result = json.loads(next(line for line in reversed(lines) if '"eval_loss"' in line))
    if as_json:
        print_json(result)
    else:
        click.echo(f"held-out loss {result['eval_loss']:.4f} at step {result['step']}")
        click.echo(f"Next: tuneyard report {quoted(run_dir)}")
