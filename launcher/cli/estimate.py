"""`tuneyard estimate`: memory, speed, hours and cost without a job file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli._options import json_option
from rundir.errors import EXIT_DOES_NOT_FIT, EXIT_OK
from rundir.quantities import GIB, count
from trainer.config import DataConfig, MethodConfig

if TYPE_CHECKING:
    from rich.console import Console

    from launcher.planner.ask.estimate_question import Answer, EstimateQuestion


LENGTH = DataConfig.model_fields["max_length"].default
RANK = MethodConfig.model_fields["r"].default


@click.command()
@click.option("--model", required=True, metavar="NAME|PATH", help="Model of the catalogue, folder, or config.json.")
@click.option("--method", default="lora", show_default=True, help="full, lora, qlora or int8.")
@click.option("--gpus", required=True, metavar="8xH100-80", help="How many of which GPU.")
@click.option("--engine", default="", help="zero0 to zero3, or fsdp2; left open, the quickest that fits.")
@click.option("--length", type=int, default=LENGTH, show_default=True, help="Tokens of one pack.")
@click.option("--micro-batch", type=click.IntRange(0), default=0, help="Packs of one forward pass.")
@click.option("--accumulation", type=click.IntRange(0), default=0, help="Forward passes in one step.")
@click.option("--checkpointing", type=click.Choice(["none", "full"]), default=None)
@click.option("--r", "lora_r", type=click.IntRange(1), default=RANK, show_default=True, help="Rank of adapters.")
@click.option("--tokens", default="", metavar="N", help="Tokens of the data, such as 30M.")
@click.option("--rows", default="", metavar="N", help="Conversations of the data, with --row-tokens.")
@click.option("--row-tokens", type=float, default=0.0, help="Mean tokens of a conversation.")
@click.option("--epochs", type=float, default=1.0, show_default=True, help="Times through the data.")
@click.option("--walltime", default="", metavar="4h", help="Longest life of one attempt.")
@click.option("--price", type=float, default=None, help="US dollars per GPU-hour.")
@click.option("--prices", type=click.Path(path_type=Path), default=None, help="Your prices, YAML or JSON.")
@json_option
def estimate(as_json: bool, **asked: Any) -> int:
    """Print memory, speed, hours and cost of a fine-tune. Needs no GPU and no job file.

    Exit code 6 when it does not fit, so that scripts can ask; 2 when Tuneyard cannot train the model.
    """
    from launcher.cli._output import make_console, print_json
    from launcher.model.config import require_trainable
    from launcher.planner.ask.estimate_question import answer

    question = question_of(**asked)
    require_trainable(question.model)
    found = answer(question)
    if as_json:
        print_json(found.as_json())
    else:
        print_estimate(found, make_console())
    return EXIT_OK if found.fits else EXIT_DOES_NOT_FIT


def question_of(
    *,
    gpus: str,
    tokens: str,
    rows: str,
    row_tokens: float,
    epochs: float,
    walltime: str,
    price: float | None,
    prices: Path | None,
    checkpointing: str | None,
    **same: Any,
) -> EstimateQuestion:
    """The question that the options make."""
    from launcher.planner.ask.estimate_question import EstimateQuestion
    from launcher.sizing.gpus import parse_gpus, priced, with_prices
    from launcher.sizing.speed.amounts import hours_of, number_of, total_tokens

    counted = parse_gpus(gpus, with_prices(prices))
    if price is not None:
        counted = replace(counted, gpu=priced(counted.gpu, price, "--price"))
    return EstimateQuestion(
        gpus=counted,
        checkpointing=checkpointing or "",
        tokens=total_tokens(tokens, rows, row_tokens, epochs),
        rows=number_of(rows, "--rows"),
        epochs=epochs,
        document_length=row_tokens,
        walltime_hours=hours_of(walltime),
        **same,
    )


def print_estimate(found: Answer, console: Console) -> None:
    """What would run, the memory as a bar per component, the time by cause, and the bill."""
    from launcher.cli._output import facts, print_bars

    console.print(facts(_head(found)), highlight=False)
    print_bars("memory of the busiest phase", _memory_parts(found), found.estimate.memory.usable, " GiB", console)
    step = found.speed.step_seconds
    print_bars("one step", {k: v for k, v in found.speed.parts.items() if v > step / 200}, step, " s", console)
    console.print(facts(_tail(found)), highlight=False)


def _head(found: Answer) -> dict[str, Any]:
    layout, memory, question = found.candidate.layout, found.estimate.memory, found.question
    engine = "" if layout.ranks == 1 else f"{layout.engine}, "
    return {
        "model": f"{question.model} ({found.estimate.given.shape.num_parameters:,} parameters)",
        "runs as": f"{question.method}, {engine}micro-batch {layout.micro_batch} x {layout.accumulation}, "
        f"length {layout.length:,}, checkpointing {layout.checkpointing}",
        "on": f"{layout.ranks} x {question.gpus.gpu.name}",
        "verdict": f"{memory.verdict}: needs {memory.process:.1f} of {memory.usable:.1f} GiB usable",
        "memory": f"allocated {memory.allocated:.1f} GiB ({memory.interval[0]:.1f} to {memory.interval[1]:.1f}), "
        f"process at least {memory.process:.1f}, nvidia-smi about {memory.nvidia_smi:.1f}; "
        f"peak in {memory.busiest.name.replace('_', ' ')}",
    }


def _memory_parts(found: Answer) -> dict[str, float]:
    parts = sorted(found.estimate.memory.busiest.parts.items(), key=lambda part: -part[1])
    return {name.replace("_", " "): size / GIB for name, size in parts if size > GIB / 100}


def _tail(found: Answer) -> dict[str, Any]:
    speed = found.speed
    host, disk = found.estimate.host, found.estimate.disk
    lines = {
        "host memory": f"{host.load:.0f} GiB per node while loading, {host.training:.0f} in training",
        "disk": f"{disk.checkpoint:.1f} GiB a checkpoint, {disk.export:.1f} the result",
        "speed": f"{speed.tokens_per_gpu:,.0f} tokens/s per GPU ({speed.low:,.0f} to {speed.high:,.0f}), "
        f"{speed.tokens_per_second:,.0f} in all",
        "MFU": f"{100 * speed.mfu:.0f} % ({speed.tflops_per_gpu:.0f} TFLOP/s per GPU)",
    }
    if found.bill:
        lines |= _bill(found)
    if found.cautions:
        lines["caution"] = "; ".join(found.cautions)
    if found.suggestions:
        lines["would fit"] = "; ".join(found.suggestions)
    elif not found.fits:
        lines["would fit"] = "nothing near, not even 64 times as many: take GPUs with more memory, or a smaller model"
    return lines


def _bill(found: Answer) -> dict[str, Any]:
    bill = found.bill
    assert bill is not None
    low, high = bill.hours_interval
    cost = f"{bill.cost:,.2f} USD at {bill.price:.2f}" if bill.cost is not None else "unknown"
    lines = {
        "time": f"{bill.hours:,.2f} h ({low:,.2f} to {high:,.2f}) "
        f"for {count(bill.tokens, 'token')} in {count(bill.steps, 'step')}",
        "cost": f"{cost} per GPU-hour ({bill.price_note}), {bill.gpu_hours:,.1f} GPU-hours"
        if bill.cost is not None
        else f"{bill.gpu_hours:,.1f} GPU-hours; {bill.price_note}",
    }
    return lines | ({"walltime": count(bill.slices, "slice")} if bill.slices else {})
