"""`tuneyard checkpoints`: what a run has saved, whether it is whole, and what a resume would take."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cluster import backend
from launcher.cli._options import json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import watched
from launcher.errors import JobError
from launcher.runs.read import backend_name
from launcher.trainer_process import ask_trainer
from rundir.errors import EXIT_OK, EXIT_RUN_FAILED
from rundir.quantities import age, count, size

COLUMNS = ("checkpoint", "state", "kept", "size", "age", "saved on", "")


@click.command()
@run_argument
@click.option("--verify", is_flag=True, help="Read every file and compare its hash; exit code 5 if one is damaged.")
@click.option("--prune", type=click.IntRange(min=1), metavar="N", help="Keep the newest N and the permanent ones.")
@click.option("--yes", is_flag=True, help="Prune without asking.")
@json_option
def checkpoints(run_name: str, runs_dir: Path, verify: bool, prune: int | None, yes: bool, as_json: bool) -> int:
    """List a run's checkpoints, newest first, and the one that a resume takes."""
    run_dir = run_dir_of(run_name, runs_dir)
    arguments = ["--verify"] if verify else []
    if prune is not None:
        _refuse_living(run_dir)
        if not yes:
            _ask(run_dir, prune)
        arguments += ["--prune", str(prune)]
    with watched(run_dir, make_console(stderr=True), "verifying") if verify else nullcontext():
        found = ask_trainer("checkpoints", run_dir, *arguments)
    if as_json:
        print_json({"run": str(run_dir), **found})
    else:
        _show(run_dir, found, verify)
    return EXIT_RUN_FAILED if verify and is_damaged(found) else EXIT_OK


def is_damaged(found: dict[str, Any]) -> bool:
    """Whether a published checkpoint is not what its manifest says."""
    return any(entry["state"] == "published" and entry["problem"] for entry in found["checkpoints"])


def to_be_pruned(found: dict[str, Any], keep: int) -> list[dict[str, Any]]:
    """Published checkpoints that are neither permanent nor among the newest `keep` others."""
    passing = [entry for entry in _newest_first(found) if entry["state"] == "published" and not entry["permanent"]]
    return passing[keep:]


def _newest_first(found: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(found["checkpoints"], key=lambda entry: (entry["step"] is None, -(entry["step"] or 0)))


def _refuse_living(run_dir: Path) -> None:
    if backend(backend_name(run_dir)).status(run_dir).state in ("queued", "running"):
        raise JobError(
            f"{run_dir.name} is alive and prunes for itself",
            f"Set checkpoint.keep in the job file, or stop it first: tuneyard stop {quoted(run_dir)}",
        )


def _ask(run_dir: Path, keep: int) -> None:
    going = to_be_pruned(ask_trainer("checkpoints", run_dir), keep)
    if not going:
        return
    if not sys.stdin.isatty():
        raise JobError(f"{count(len(going), 'checkpoint')} would be removed, and nobody can be asked", "Add --yes.")
    for entry in going:
        click.echo(f"  {entry['name']}  {size(entry['bytes'])}", err=True)
    click.confirm(f"Remove these {len(going)} for good?", abort=True, err=True)


def _show(run_dir: Path, found: dict[str, Any], verify: bool) -> None:
    console = make_console()
    if not found["checkpoints"]:
        click.echo(f"{run_dir.name} has no checkpoint yet\nNext: tuneyard status {quoted(run_dir)}")
        return
    _print_table(found, console)
    for entry in found["checkpoints"]:
        if entry["problem"]:
            console.print(f"{entry['name']}: {entry['problem']}", highlight=False, soft_wrap=True)
    if removed := found.get("removed"):
        click.echo(f"removed: {', '.join(removed)}")
    click.echo(_next_step(run_dir, found, verify))


def _print_table(found: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("size", "age") else "left", no_wrap=True)
    for entry in _newest_first(found):
        table.add_row(*_cells(entry, found["resume_from"], time.time()))
    console.print(table, highlight=False)


def _cells(entry: dict[str, Any], resume_from: str | None, now: float) -> tuple[str, ...]:
    where = f"{count(entry['world_size'], 'rank')}, {entry['engine']}" if entry["engine"] else ""
    return (
        entry["name"],
        _state(entry),
        "" if entry["state"] != "published" else "for good" if entry["permanent"] else "newest",
        size(entry["bytes"]),
        age(now - entry["saved"]) if entry["saved"] else "",
        where,
        "<- resume" if entry["name"] == resume_from else "",
    )


def _state(entry: dict[str, Any]) -> str:
    if entry["state"] == "published" and entry["problem"]:
        return "damaged"
    return "verified" if entry["verified"] else str(entry["state"])


def _next_step(run_dir: Path, found: dict[str, Any], verify: bool) -> str:
    name = quoted(run_dir)
    if found["resume_from"] is None:
        return f"Next: none of them can be used; tuneyard resume {name} starts from the beginning"
    if not verify:
        return f"Next: tuneyard checkpoints {name} --verify reads every file"
    if is_damaged(found):
        return f"Next: tuneyard resume {name} sets damaged ones aside and goes on from {found['resume_from']}"
    return f"Next: tuneyard resume {name} goes on from {found['resume_from']}"
