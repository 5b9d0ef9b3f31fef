"""Tokenising with something to look at, as `check` and `submit` do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.cli._output import print_preflight
from launcher.cli._phases import watched
from launcher.cli._planning import recounted
from launcher.cli._show_plan import print_warnings, steps_in_words
from launcher.dataset.token_counts import cache_token_counts
from launcher.jobfile import LoadedJob
from launcher.planner.plan import Plan
from launcher.trainer_process import run_trainer
from rundir.files import read_json, write_json
from rundir.paths import PLAN


def prepare(run_dir: Path, console: Console) -> dict[str, Any]:
    """Tokenises the run's data, prints the preflight report, and gives it.

    Raises:
        JobError: the data is wrong; the trainer has said how.
        RunFailedError: it broke.
    """
    with watched(run_dir, console, "tokenising"):
        run_trainer("prepare", run_dir, on_line=lambda line: None)
    preflight = read_json(run_dir / "data" / "preflight.json") or {}
    cache_token_counts(run_dir)
    print_preflight(preflight, console)
    return preflight


def settle(
    loaded: LoadedJob,
    plan: Plan,
    run_dir: Path,
    console: Console,
    *,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> Plan:
    """Plans once more where the amount of data was estimated, now that it is counted; says how many steps there are.

    Raises:
        TuneyardError: the schedule, or the step, does not go with so many steps.
    """
    if plan.steps.is_exact and plan.steps.per_epoch:
        return plan
    counted = recounted(loaded, run_dir, runs_dir=runs_dir, corrected=corrected)
    write_json(run_dir / PLAN, counted.as_json())
    for setting, was, now in changed(plan, counted):
        console.print(f"{setting}: {now} instead of {was}, now that the data is counted", highlight=False)
    steps = steps_in_words(counted.steps, counted.trainer.training.num_train_epochs)
    console.print(f"steps: {steps}", highlight=False)
    print_warnings(counted, console)
    return counted


def changed(before: Plan, after: Plan) -> Iterator[tuple[str, Any, Any]]:
    """What a person would look for: ranks and step."""
    was, now = before.trainer, after.trainer
    yield from (
        (name, one, other)
        for name, one, other in (
            ("ranks", was.execution.world_size, now.execution.world_size),
            ("training.tokens_per_step", was.training.tokens_per_step, now.training.tokens_per_step),
        )
        if one != other
    )
