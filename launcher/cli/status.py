"""`tuneyard status`: where a run is."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from cluster import Status, backend
from launcher.calibration.observed import record_run
from launcher.cli._follow import next_step, seconds_left
from launcher.cli._options import json_option, last_run_argument, quoted, run_dir_of
from launcher.cli._output import facts, make_console, print_json
from launcher.report import goodput
from launcher.runs.finishing import failed_parts
from launcher.runs.overview import overview
from launcher.runs.read import backend_name
from rundir.attempts import AttemptRecord, read_attempts
from rundir.progress import Progress, read_progress
from rundir.quantities import rounded_duration


@click.command()
@last_run_argument
@json_option
def status(run_name: str, runs_dir: Path, as_json: bool) -> None:
    """Where a run is: its state, step, loss, last checkpoint and attempts."""
    run_dir = run_dir_of(run_name, runs_dir)
    found = backend(backend_name(run_dir)).status(run_dir)
    progress, attempts = read_progress(run_dir), read_attempts(run_dir)
    if not found.state.is_alive:
        record_run(run_dir)
    if as_json:
        fields = dataclasses.asdict(found)
        account = goodput.account(attempts, progress)
        life = {
            "attempts": [one.to_json() for one in attempts],
            "goodput": dataclasses.asdict(account) if account else None,
        }
        left = seconds_left(progress) if is_current(found, progress) else None
        glance = dataclasses.asdict(overview(run_dir)) | {"run_dir": str(run_dir)}
        facts_of_run = {"run": str(run_dir), **fields, "seconds_left": left, "progress": progress.to_json(), **life}
        print_json({**facts_of_run, "overview": glance})
        return
    make_console().print(facts(_rows(run_dir, found, progress, attempts)), highlight=False)
    alive = found.state.is_alive
    watch = f"Next: tuneyard logs {quoted(run_dir)} --follow, or tuneyard stop {quoted(run_dir)}"
    click.echo(watch if alive else next_step(run_dir, found.outcome))


def _rows(run_dir: Path, found: Status, progress: Progress, attempts: list[AttemptRecord]) -> dict[str, Any]:
    glance = overview(run_dir)
    rows: dict[str, Any] = {"run": run_dir, "model": " ".join(filter(None, (glance.model, glance.method)))}
    if glance.begun is not None:
        took = rounded_duration(glance.seconds or 0.0)
        rows["begun"] = f"{glance.date()}, {took} so far" if found.state.is_alive else f"{glance.date()}, {took} in all"
    rows["state"] = found.state
    if found.outcome:
        rows["outcome"] = found.outcome
    if found.reason:
        rows["reason"] = found.reason
    rows |= {part.title: f"FAILED: {part.message}" for part in failed_parts(run_dir, found.outcome)}
    rows["attempts"] = len(attempts)
    rows |= _life_rows(attempts, progress)
    rows |= _progress_rows(progress, alive=found.state.is_alive, current=is_current(found, progress))
    if glance.eval_loss is not None:
        rows["held-out loss"] = f"{glance.eval_loss:.4f}"
    return rows


def is_current(found: Status, progress: Progress) -> bool:
    """Return whether progress.json is from the running attempt; during a restart it is from the one before."""
    return found.state.is_alive and found.attempt is not None and progress.attempt == found.attempt


def _life_rows(attempts: list[AttemptRecord], progress: Progress) -> dict[str, Any]:
    """Return the rows about restarts and goodput."""
    found = goodput.account(attempts, progress)
    rows = {
        "restarts": len(attempts) - 1 if len(attempts) > 1 else None,
        "goodput": goodput.goodput_text(found) if found else None,
        "decided": goodput.decision_text(attempts),
    }
    return {name: value for name, value in rows.items() if value is not None}


def _progress_rows(progress: Progress, *, alive: bool, current: bool) -> dict[str, Any]:
    if not progress:
        return {}
    age_seconds = max(0.0, time.time() - (progress.heartbeat or time.time()))
    heard = "heard" if current else "last heard"
    if alive and not current:
        heard = f"the word of attempt {progress.attempt}, {heard}"
    rows = {
        "trainer": f"{progress.state}, {heard} {rounded_duration(age_seconds)} ago",
        "step": _step(progress),
        "loss": _rounded(progress.loss, ".4f"),
        "tokens/s": _rounded(progress.tokens_per_second if current or not alive else None, ",.0f"),
        "left": rounded_duration(left) + " of training" if current and (left := seconds_left(progress)) else None,
        "last checkpoint": progress.last_checkpoint.path or None,
        "resumed": progress.exactness or None,
        "failure": progress.failure.message or None,
        "remedy": progress.failure.remedy or None,
        "save": _save_problem(progress),
        "caution": progress.caution or None,
    }
    return {name: value for name, value in rows.items() if value is not None}


def _step(progress: Progress) -> str:
    """Return the step of the last heartbeat; while a resumed attempt loads, the step of its checkpoint."""
    end, saved = progress.max_steps or "?", progress.last_checkpoint
    if saved and not progress.has_trained and progress.resumed_step is None:
        return f"resuming from step {saved.step} of {end}"
    return f"{progress.step or 0} of {end}"


def _save_problem(progress: Progress) -> str | None:
    """Return the problem of the last save if it failed: training continues, but the storage needs attention."""
    found = progress.save_problem
    return f"of step {found.step} FAILED: {'; '.join(found.problems)}" if found else None


def _rounded(value: float | None, form: str) -> str | None:
    return format(value, form) if isinstance(value, int | float) else None
