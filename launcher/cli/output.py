"""How facts are printed: tables for people, JSON for programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from launcher.plan import Plan
from launcher.planner import Choice, Rejected
from launcher.prediction import GIB
from launcher.rundata import preflight_table

REJECTED_SHOWN = 5
PIPED_WIDTH = 110


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not fold tables to 80 columns in a file, and takes `[/x]` in a value for what it is."""
    console = Console(stderr=stderr, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, width=PIPED_WIDTH, markup=False)


def make_echo(*, stderr: bool) -> Callable[[str], None]:
    """Prints lines of another process; beside JSON they go to standard error."""
    return functools.partial(click.echo, err=stderr)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def gib(num_bytes: float) -> str:
    """Bytes in GiB, or MiB when that reads better."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 1024**2:.1f} MiB"


def facts(rows: dict[str, Any]) -> Table:
    """A table of names and values without lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def print_preflight(preflight: dict[str, Any], console: Console) -> None:
    """What was found in the data, a column for each split."""
    found = preflight_table(preflight)
    if found is None:
        return
    table = Table(box=None, pad_edge=False, title="Data", title_justify="left")
    table.add_column("finding")
    for split in found["splits"]:
        table.add_column(split, justify="right")
    for name, cells in found["rows"]:
        table.add_row(name, *cells)
    console.print(table, highlight=False, markup=False)


def print_plan(plan: Plan, console: Console) -> None:
    """The plan with its reasons, its memory, and what was turned down."""
    console.print(facts(_summary(plan)), highlight=False)
    table = Table(box=None, pad_edge=False, title="Decided", title_justify="left")
    for column in ("setting", "value", "why"):
        table.add_column(column, overflow="fold", no_wrap=column != "why")
    for decision in plan.decisions:
        table.add_row(decision.setting, str(decision.value), decision.reason)
    console.print(table, highlight=False, markup=False)
    _print_memory(plan, console)
    _print_rejected(plan.choice, console)


def _summary(plan: Plan) -> dict[str, Any]:
    execution, training = plan.trainer.execution, plan.trainer.training
    length = plan.trainer.data.max_length
    steps = training.max_steps or f"known once the data is tokenised ({training.num_train_epochs:g} epochs)"
    return {
        "run": plan.trainer.name,
        "model": f"{plan.trainer.model.path} ({_parameters(plan)})",
        "engine": f"{execution.engine} on {execution.world_size} x {execution.device}",
        "step": f"{training.tokens_per_step:,} tokens = {execution.world_size} ranks"
        f" x {execution.micro_batch} packs x {execution.accumulation} micro-steps of {length:,} tokens",
        "steps": steps,
    }


def _parameters(plan: Plan) -> str:
    prediction = plan.choice.candidate.prediction
    if prediction is None:
        return "not on this machine: its size is not known"
    trainable = prediction.num_trainable
    share = f", {trainable:,} of them train" if trainable != prediction.num_parameters else ""
    return f"{prediction.num_parameters:,} parameters{share}"


def _print_memory(plan: Plan, console: Console) -> None:
    prediction = plan.choice.candidate.prediction
    if prediction is None:
        return
    parts = sorted(prediction.binding_components().items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name.replace('_', ' ')} {gib(size)}" for name, size in parts)
    peak, limit = gib(prediction.peak_bytes), gib(plan.choice.limit_bytes)
    text = f"{peak} of {limit} usable, in the {prediction.binding_phase} phase"
    console.print(facts({"memory per rank": text, "made of": listed}), highlight=False)


def _print_rejected(choice: Choice, console: Console) -> None:
    if not choice.rejected:
        return
    console.print(f"Turned down: {len(choice.rejected)} other plans", style="bold", highlight=False)
    shown = _best_of_each_engine(choice.rejected)[:REJECTED_SHOWN]
    console.print(facts({f"  {r.candidate.label}": r.reason for r in shown}), highlight=False)


def _best_of_each_engine(rejected: list[Rejected]) -> list[Rejected]:
    first: dict[str, Rejected] = {}
    for entry in rejected:
        first.setdefault(entry.candidate.engine, entry)
    return list(first.values())
