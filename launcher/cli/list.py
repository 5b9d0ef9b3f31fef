"""`tuneyard list`: the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cluster import ClusterError, backend
from cluster.rundir import read_progress
from launcher.cli.options import json_option, runs_option
from launcher.cli.output import make_console, print_json
from launcher.rundata import backend_name
from launcher.runs import list_runs

COLUMNS = ("run", "state", "outcome", "attempts", "step", "loss")


@click.command(name="list")
@runs_option
@json_option
def list_(runs_dir: Path, as_json: bool) -> None:
    """List the runs in a folder, oldest first."""
    rows = [_row_or_damage(run_dir) for run_dir in list_runs(runs_dir)]
    if as_json:
        print_json(rows)
    elif rows:
        _print_table(rows)
        click.echo("Next: tuneyard status RUN, for one of them")
    else:
        click.echo(f"no runs in {runs_dir}\nNext: tuneyard submit JOB")


def _row_or_damage(run_dir: Path) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    try:
        return _row(run_dir)
    except ClusterError:
        return dict.fromkeys((*COLUMNS, "max_steps")) | {"run": run_dir.name, "state": "damaged"}


def _row(run_dir: Path) -> dict[str, Any]:
    found, progress = backend(backend_name(run_dir)).status(run_dir), read_progress(run_dir) or {}
    return {
        "run": run_dir.name,
        "state": found.state,
        "outcome": found.outcome,
        "attempts": 0 if found.attempt is None else found.attempt + 1,
        "step": progress.get("step"),
        "max_steps": progress.get("max_steps"),
        "loss": progress.get("loss"),
    }


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in COLUMNS))
    make_console().print(table, highlight=False)
