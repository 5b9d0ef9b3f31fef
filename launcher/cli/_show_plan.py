"""Print a plan for people: decisions, memory as bars, speed and cost, and rejected candidates."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.cli._output import facts, print_bars
from launcher.planner.ask.what_if import Compared
from launcher.planner.choice.select import Rejected
from launcher.planner.layouts.candidates import Candidate
from launcher.planner.plan import Plan
from launcher.planner.settings.num_steps import EXACT, Steps
from rundir.quantities import GIB, count, rounded_duration, size

REJECTED_SHOWN = 5
OTHER_RANKS_SHOWN = 4
LEAST_SHOWN = 0.005
"""Share of the peak below which a component has no bar."""


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan with its reasons, memory, speed, rejected candidates and warnings."""
    console.print(facts(_summary(plan)), highlight=False)
    table = Table(box=None, pad_edge=False, title="Decided", title_justify="left")
    for column in ("setting", "value", "why"):
        table.add_column(column, overflow="fold", no_wrap=column != "why")
    for decision in plan.decisions:
        table.add_row(decision.setting, str(decision.value), decision.reason)
    console.print(table, highlight=False, markup=False)
    _print_memory(plan, console)
    _print_speed(plan, console)
    _print_rejected(plan, console)
    print_warnings(plan, console)


def print_comparison(compared: list[Compared], console: Console) -> None:
    """Print the best plan of each engine in one row, the cheapest first, and why the other engines have none."""
    table = _table("Compared", "hours", "cost")
    for one in compared:
        if one.plan:
            table.add_row(*_row(one.plan.choice.candidate), *_bill_cells(one.plan))
        else:
            table.add_row(one.engine, "", "no")
    console.print(table, highlight=False, markup=False)
    failed = {one.engine: one.error for one in compared if one.error}
    if failed:
        console.print(facts(failed), highlight=False)


def _bill_cells(plan: Plan) -> tuple[str, str]:
    found = plan.forecast_json()
    hours, cost = found.get("hours"), found.get("cost")
    return (f"{hours:,.1f}" if hours else "-", f"{cost:,.0f} USD" if cost else "-")


def _summary(plan: Plan) -> dict[str, Any]:
    execution, training = plan.trainer.execution, plan.trainer.training
    length = plan.trainer.data.max_length
    return {
        "run": plan.trainer.name,
        "model": f"{plan.trainer.model.path} ({_parameters(plan)})",
        "engine": f"{execution.engine} on {execution.world_size} x {_device(plan)}",
        "step": f"{execution.packs_per_step} x 1 conversation = {count(execution.world_size, 'rank')}"
        f" x {execution.micro_batch} x {count(execution.accumulation, 'micro-step')}, of at most {length:,} tokens each"
        if not plan.trainer.data.packing
        else f"{training.tokens_per_step:,} tokens = {count(execution.world_size, 'rank')}"
        f" x {count(execution.micro_batch, 'pack')} x {count(execution.accumulation, 'micro-step')}"
        f" of {length:,} tokens",
        "steps": steps_text(plan.steps, training.num_train_epochs),
    }


def steps_text(steps: Steps, epochs: float) -> str:
    """Return the number of steps of the run, of an epoch and of the warm-up as text, with its source."""
    passes = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"
    if steps.number is None:
        return f"known once the data is tokenised ({passes}): {steps.source}"
    about = "" if steps.is_exact else "about "
    parts = [f"{about}{steps.number:,} in {passes}"]
    if steps.source == EXACT:
        done = f", about {steps.number / steps.per_epoch:.2g} epochs" if steps.per_epoch else ""
        parts = [f"{steps.number:,} (training.max_steps){done}"]
    if steps.per_epoch:
        parts.append(f"{steps.per_epoch:,} an epoch")
    parts.append(f"the first {steps.warmup:,} warm-up")
    if steps.source != EXACT:
        parts.append(steps.source if steps.is_exact else f"{steps.source}; exact once it is tokenised")
    return "; ".join(parts)


def print_warnings(plan: Plan, console: Console) -> None:
    """Print each warning of the plan on its own line."""
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)


def _device(plan: Plan) -> str:
    candidate, nodes = plan.choice.candidate, plan.choice.step_layout.nodes
    gpu = candidate.gpu.name if candidate.gpu else plan.trainer.execution.device
    return f"{gpu}, {nodes} nodes" if nodes > 1 else gpu


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
    peak, limit = prediction.peak_bytes, plan.choice.limit_bytes
    phase = prediction.binding_phase.replace("_", " ")
    parts = sorted(prediction.binding_components().items(), key=lambda part: -part[1])
    shown = {name.replace("_", " "): size / GIB for name, size in parts if size > LEAST_SHOWN * peak}
    title = f"Memory per rank: {size(peak)} of {size(limit)} usable, in the {phase} phase"
    print_bars(title, shown, limit / GIB, " GiB", console)


def _print_speed(plan: Plan, console: Console) -> None:
    found, speed = plan.forecast_json(), plan.choice.candidate.speed
    if speed is None:
        return
    per, mfu = ("GPU", f", MFU {100 * speed.mfu:.0f} %") if found["gpu"] else ("rank", "")
    lines = {
        "speed": f"{speed.tokens_per_gpu:,.0f} tokens/s per {per} ({speed.low:,.0f} to {speed.high:,.0f}), "
        f"{speed.tokens_per_second:,.0f} in all; {speed.step_seconds:,.2f} s a step{mfu}",
        "time": "known once the number of steps is: training.max_steps says it",
    }
    if found["hours"]:
        lines["time"] = rounded_duration(3600 * found["hours"], hours_from=360, hours=2, minutes=2)
        lines["time"] += f", {found['gpu_hours']:,.1f} GPU-hours" if found["gpu"] else ""
        if found["gpu"]:
            lines["cost"] = _cost(found)
    if found["walltime_slices"]:
        lines["walltime"] = f"{count(found['walltime_slices'], 'slice')} of {found['walltime_hours']:g} h"
    if needs := found["node_memory_gib"]:
        loading, training = needs["load_gib"], needs["training_gib"]
        lines["host memory"] = f"up to {loading:.0f} GiB a node while loading, {training:.0f} in training"
    if corrected := corrections_text(plan.choice.candidate):
        lines["corrected"] = f"{corrected}; see tuneyard calibration"
    if found["cautions"]:
        lines["caution"] = "; ".join(found["cautions"])
    console.print(facts(lines), highlight=False)


def corrections_text(candidate: Candidate) -> str:
    """Return for example `time x 1.31 after 3 runs (lora on zero2)`; empty if nothing was measured."""
    corrections = candidate.corrections
    if corrections is None:
        return ""
    made = {"time": corrections.speed_correction, "memory": corrections.memory_correction}
    return ", ".join(f"{what} x {one.factor:.2f} after {one.in_words()}" for what, one in made.items() if one.runs)


def _cost(found: dict[str, Any]) -> str:
    if found["cost"] is None:
        return "unknown: no public price of this GPU; name a file of your own in TUNEYARD_PRICES"
    return f"{found['cost']:,.2f} USD at {found['usd_per_gpu_hour']:.2f} per GPU-hour ({found['price_note']})"


def _print_rejected(plan: Plan, console: Console) -> None:
    rejected = plan.choice.rejected
    if not rejected:
        return
    table = _table(f"Turned down: {len(rejected)} other plans", "why")
    table.add_row(*_row(plan.choice.candidate), "taken")
    for entry in _shown(rejected, plan.choice.candidate.step_layout.world_size):
        table.add_row(*_row(entry.candidate), entry.reason)
    console.print(table, highlight=False, markup=False)


def _table(title: str, *more: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("plan", overflow="fold")
    for column in ("ranks", "memory", "s a step"):
        table.add_column(column, justify="right")
    for column in more:
        table.add_column(column, overflow="fold")
    return table


def _row(candidate: Candidate) -> tuple[str, str, str, str]:
    seconds = f"{candidate.speed.step_seconds:,.2f}" if candidate.speed else "-"
    memory = size(candidate.peak_bytes) if candidate.peak_bytes else "-"
    return candidate.label, str(candidate.step_layout.world_size), memory, seconds


def _shown(rejected: list[Rejected], ranks: int) -> list[Rejected]:
    """Return the best rejected candidate of each engine on the same number of ranks, then a few on other numbers."""
    same: dict[str, Rejected] = {}
    other: dict[int, Rejected] = {}
    for entry in rejected:
        if entry.candidate.step_layout.world_size == ranks:
            same.setdefault(entry.candidate.layout.engine, entry)
        else:
            other.setdefault(entry.candidate.step_layout.world_size, entry)
    return [*list(same.values())[:REJECTED_SHOWN], *list(other.values())[:OTHER_RANKS_SHOWN]]
