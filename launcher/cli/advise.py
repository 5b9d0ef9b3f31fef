"""`tuneyard advise`: whether to fine-tune at all, how, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli._options import json_option

if TYPE_CHECKING:
    from rich.console import Console

    from launcher.advice.advise import Advice, Situation
    from launcher.jobfile import JobFile


@click.command()
@click.argument("job_file", metavar="[JOB]", type=click.Path(path_type=Path), required=False)
@click.option("--model", default="", metavar="NAME|PATH", help="Model of the catalogue, folder, or config.json.")
@click.option(
    "--task", default="chat", show_default=True, help="style, classification, extraction, chat, knowledge, ..."
)
@click.option("--rows", default="", metavar="N", help="Conversations of the data.")
@click.option("--tokens", default="", metavar="N", help="Tokens of the data, such as 30M.")
@click.option("--gpus", default="", metavar="8xH100-80", help="GPUs that are at hand.")
@json_option
def advise(job_file: Path | None, model: str, task: str, rows: str, tokens: str, gpus: str, as_json: bool) -> None:
    """Say whether and how to fine-tune; with JOB, warn where the job file departs from that."""
    from launcher.advice import advise as advice
    from launcher.cli._output import make_console, print_json

    job = _job(job_file)
    situation = _situation(job, model=model, task=task, rows=rows, tokens=tokens, gpus=gpus)
    given = advice.advise(situation)
    found = _warnings(job, given, situation)
    if as_json:
        print_json({**given.as_json(), "situation": _facts(situation), "warnings": found})
    else:
        _print(given, situation, found, make_console())


def _job(job_file: Path | None) -> JobFile | None:
    if job_file is None:
        return None
    from launcher.site.job import load_job

    return load_job(job_file).job


def _situation(job: JobFile | None, *, model: str, task: str, rows: str, tokens: str, gpus: str) -> Situation:
    from launcher.advice import advise as advice
    from launcher.advice.job_warnings import data_of
    from launcher.dataset.size import unknown_size
    from launcher.errors import JobError
    from launcher.model.config import require_trainable
    from launcher.planner.ask.estimate_question import shape_named
    from launcher.sizing.speed.amounts import MEAN_ROW_TOKENS, number_of

    name = model or (job.model.path if job else "")
    if not name:
        raise JobError(
            "advise needs a job file or --model", "For example: tuneyard advise --model llama-3.1-8b --rows 20k"
        )
    shape = shape_named(name)
    require_trainable(name)
    data, lengths = data_of(job, shape.vocab_size) if job else (unknown_size(), [])
    num_rows = number_of(rows, "--rows") or round(data.rows)
    mean = data.mean or MEAN_ROW_TOKENS
    num_tokens = number_of(tokens, "--tokens") or int(num_rows * mean)
    return advice.Situation(
        shape=shape,
        task=task,
        rows=num_rows,
        tokens=num_tokens,
        lengths=lengths,
        methods_that_fit=_fitting(name, gpus, lengths),
    )


def _fitting(model: str, gpus: str, lengths: list[int]) -> tuple[str, ...] | None:
    """Methods whose memory fits the GPUs, at the length that the data wants; `None` where none are named."""
    if not gpus:
        return None
    from launcher.advice.rules import COVERED_SHARE, DEFAULT_LENGTH, LENGTHS
    from launcher.planner.ask.estimate_question import EstimateQuestion, best_answer, shape_named
    from launcher.sizing.gpus import parse_gpus

    wanted = sorted(lengths)[int(COVERED_SHARE * len(lengths))] if lengths else DEFAULT_LENGTH
    length = next((entry for entry in LENGTHS if entry >= wanted), LENGTHS[-1])
    counted, shape = parse_gpus(gpus), shape_named(model)
    methods = ("full", "lora", "qlora")
    asked = (EstimateQuestion(model=model, method=method, gpus=counted, length=length) for method in methods)
    return tuple(question.method for question in asked if best_answer(question, shape).fits)


def _warnings(job: JobFile | None, given: Advice, situation: Situation) -> list[str]:
    if job is None:
        return []
    from launcher.advice.job_warnings import warnings

    return warnings(job, given, situation)


def _facts(situation: Situation) -> dict[str, Any]:
    return {
        "parameters": situation.shape.num_parameters,
        "task": situation.task,
        "rows": situation.rows,
        "tokens": situation.tokens,
        "rows_measured": len(situation.lengths),
        "methods_that_fit": situation.methods_that_fit,
    }


def _print(given: Advice, situation: Situation, found: list[str], console: Console) -> None:
    from rich.table import Table

    console.print(f"Advised: {given.approach}", style="bold", highlight=False)
    for item in given.reasons:
        console.print(f"  {item.reason} ({item.source})", highlight=False)
    console.print(
        f"For {situation.shape.num_parameters:,} parameters, task {situation.task}, "
        f"{situation.rows or 'unknown':,} rows, {situation.tokens or 'unknown':,} tokens"
        if situation.rows and situation.tokens
        else f"For {situation.shape.num_parameters:,} parameters, task {situation.task}; give --rows and --tokens",
        highlight=False,
    )
    title = f"Settings for {given.method}" + (
        "" if given.approach == given.method else ", should you train all the same"
    )
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in ("setting", "value", "why", "source"):
        table.add_column(column, overflow="fold", no_wrap=column in ("setting", "value"))
    for item in given.settings:
        table.add_row(
            item.setting,
            f"{item.value:g}" if isinstance(item.value, float) else str(item.value),
            item.reason,
            item.source,
        )
    console.print(table, highlight=False)
    for warning in found:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
