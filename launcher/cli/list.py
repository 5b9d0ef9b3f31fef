"""`tuneyard list`: the runs in a folder, or all that this user has submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cluster import ClusterError, backend
from launcher.cli._options import json_option, runs_dir_is_given, runs_option
from launcher.cli._output import make_console, print_json
from launcher.runs.directory import list_runs, oldest_first
from launcher.runs.overview import overview
from launcher.runs.read import backend_name
from launcher.runs.registry import registered
from launcher.runs.sweep import list_sweeps
from rundir.errors import RunDirError
from rundir.quantities import count, rounded_duration

FACTS = ("run", "begun", "took", "model", "method", "state", "outcome", "attempts", "step", "loss", "eval_loss")
COLUMNS = ("run", "begun", "took", "model", "state", "attempts", "step", "loss", "eval_loss")
"""What the table shows; those in which no run has anything to tell are left out."""
PIPED_WIDTH = 180


@click.command(name="list")
@click.option("--anywhere", is_flag=True, help="All runs that you have submitted and that are still there.")
@runs_option
@json_option
def list_(anywhere: bool, runs_dir: Path, as_json: bool) -> None:
    """List the runs in a folder, oldest first, sweeps together. Where it holds none, those in any folder."""
    runs = [] if anywhere else list_runs(runs_dir)
    known = registered() if anywhere or not (runs or runs_dir_is_given()) else []
    rows = [_row_or_damage(run_dir) for run_dir in runs or oldest_first(known)]
    for folder, members in list_sweeps({run.parent for run in runs or known}):
        for row in rows:
            if row["run"] in members:
                row["sweep"] = folder.name
    if as_json:
        print_json(rows)
    elif rows:
        _print_table(rows, whole_paths=not runs)
        click.echo("Next: tuneyard status RUN, for one of them")
    else:
        click.echo(f"no runs in {runs_dir}\nNext: tuneyard submit JOB")


def _row_or_damage(run_dir: Path) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    nothing = dict.fromkeys((*FACTS, "max_steps", "seconds", "sweep"))
    named = {"run": run_dir.name, "folder": str(run_dir.parent)}
    try:
        return nothing | named | _row(run_dir)
    except (ClusterError, RunDirError):
        return nothing | named | {"state": "damaged"}


def _row(run_dir: Path) -> dict[str, Any]:
    found, glance = backend(backend_name(run_dir)).status(run_dir), overview(run_dir)
    return {
        "begun": glance.date(),
        "took": None if glance.seconds is None else rounded_duration(glance.seconds),
        "seconds": glance.seconds,
        "model": glance.model,
        "method": glance.method,
        "state": found.state,
        "outcome": found.outcome,
        "attempts": 0 if found.attempt is None else found.attempt + 1,
        "step": glance.step,
        "max_steps": glance.max_steps,
        "loss": glance.loss,
        "eval_loss": glance.eval_loss,
    }


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _print_table(rows: list[dict[str, Any]], *, whole_paths: bool) -> None:
    """Runs of a sweep stand together, below its name, where its first run would stand."""
    lines: list[dict[str, str]] = []
    told: set[str] = set()
    for row in rows:
        if row["sweep"] is None:
            lines.append(_cells(row, whole_paths))
        elif row["sweep"] not in told:
            told.add(row["sweep"])
            members = sorted((one for one in rows if one["sweep"] == row["sweep"]), key=lambda one: one["run"])
            lines.append({"run": f"{row['sweep']}: {count(len(members), 'run')}"})
            lines += [one | {"run": f"  {one['run']}"} for one in (_cells(member, whole_paths) for member in members)]
    columns = [column for column in COLUMNS if any(line.get(column) for line in lines)]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for line in lines:
        table.add_row(*(line.get(column, "") for column in columns))
    make_console(piped_width=PIPED_WIDTH).print(table, highlight=False)


def _cells(row: dict[str, Any], whole_paths: bool) -> dict[str, str]:
    step = None if row["step"] is None else f"{row['step']}/{row['max_steps']}" if row["max_steps"] else row["step"]
    shown = {
        "run": str(Path(row["folder"]) / row["run"]) if whole_paths else row["run"],
        "model": " ".join(filter(None, (row["model"], row["method"]))),
        "state": row["outcome"] or row["state"],
        "attempts": row["attempts"] if (row["attempts"] or 0) > 1 else None,
        "step": step,
    }
    return {column: _text(shown.get(column, row[column])) for column in COLUMNS}
