"""Tokenise the data with a progress bar, for `check`, `submit`, `sweep` and `drill`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.cli._output import print_preflight
from launcher.cli._phases import watched
from launcher.cli._planning import recounted
from launcher.cli._show_plan import print_warnings, steps_text
from launcher.dataset.token_counts import cache_token_counts
from launcher.jobfile import LoadedJob
from launcher.planner.plan import Plan
from launcher.trainer_process import run_trainer
from rundir.files import read_json, write_json
from rundir.paths import PLAN


def prepare(run_dir: Path, console: Console) -> dict[str, Any]:
    """Tokenise the run's data, print the preflight report, and return it.

    Raises:
        JobError: the data is wrong; the message is the trainer's.
        RunFailedError: the trainer crashed.
    """
    with watched(run_dir, console, "tokenising"):
        run_trainer("prepare", run_dir, on_line=lambda line: None)
    preflight = read_json(run_dir / "data" / "preflight.json") or {}
    cache_token_counts(run_dir)
    print_preflight(preflight, console)
    return preflight


def replan_with_counts(
    loaded: LoadedJob,
    plan: Plan,
    run_dir: Path,
    console: Console,
    *,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> Plan:
    """Plan again if the size of the data was estimated, now that it is counted, and print what changed.

    Returns:
        The plan that was written to the run directory: the new one, or the old one if its number of steps was exact.

    Raises:
        TuneyardError: the schedule or the step does not fit the number of steps.
    """
    if plan.steps.is_exact and plan.steps.per_epoch:
        return plan
    counted = recounted(loaded, run_dir, runs_dir=runs_dir, corrected=corrected)
    write_json(run_dir / PLAN, counted.as_json())
    for setting, was, now in changed(plan, counted):
        console.print(f"{setting}: {now} instead of {was}, now that the data is counted", highlight=False)
    steps = steps_text(counted.steps, counted.trainer.training.num_train_epochs)
    console.print(f"steps: {steps}", highlight=False)
    print_warnings(counted, console)
    return counted


def changed(before: Plan, after: Plan) -> Iterator[tuple[str, Any, Any]]:
    """Yield (setting, value before, value now) for number of ranks and tokens per step, where they differ."""
    was, now = before.trainer, after.trainer
    yield from (
        (name, one, other)
        for name, one, other in (
            ("ranks", was.execution.world_size, now.execution.world_size),
            ("training.tokens_per_step", was.training.tokens_per_step, now.training.tokens_per_step),
        )
        if one != other
    )
