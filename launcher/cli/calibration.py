"""`tuneyard calibration`: what earlier runs taught the plans, and taking it back."""

from __future__ import annotations

import difflib
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from launcher.calibration.observed import all_measurements
from launcher.calibration.store import Measurement, read, removed, set_removed, store_path
from launcher.cli._options import json_option, runs_option
from launcher.cli._output import facts, make_console, print_json
from launcher.errors import JobError
from launcher.runs.directory import list_runs
from launcher.site.profile import LOCAL, load_profile
from rundir.quantities import size

profile_option = click.option(
    "--profile", default=LOCAL, show_default=True, help="Site profile whose runs taught; local: this machine's."
)


@click.group(invoke_without_command=True)
@profile_option
@runs_option
@json_option
@click.pass_context
def calibration(ctx: click.Context, /, **options: Any) -> None:
    """What earlier runs taught the plans, which of it corrects them, and taking it back."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, **options)


@calibration.command(name="list")
@profile_option
@runs_option
@json_option
def list_(profile: str, runs_dir: Path, as_json: bool) -> None:
    """List what was measured beside what had been predicted, and what of it corrects later plans."""
    store = _store(profile)
    found, gone = all_measurements(store, list_runs(runs_dir)), sorted(removed(store))
    if as_json:
        print_json({"store": str(store), "measurements": [_json(one) for one in found], "removed": gone})
        return
    _print(found)
    if gone:
        click.echo(f"Removed: {', '.join(gone)}")
    click.echo(f"Kept in {store}\nNext: tuneyard calibration show NAME, or tuneyard calibration remove NAME")


@calibration.command()
@click.argument("name")
@profile_option
@runs_option
@json_option
def show(name: str, profile: str, runs_dir: Path, as_json: bool) -> None:
    """Show all that is known of one measurement."""
    found = all_measurements(_store(profile), list_runs(runs_dir))
    _require([name], {one.source for one in found})
    one = next(one for one in found if one.source == name)
    if as_json:
        print_json(_json(one))
    else:
        make_console().print(facts(_rows(one)), highlight=False)


@calibration.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All that there are.")
@profile_option
@runs_option
def remove(names: tuple[str, ...], all_of_them: bool, profile: str, runs_dir: Path) -> None:
    """Take measurements out of what corrects plans. Their runs stay, and do not bring them back."""
    store = _store(profile)
    known = [one.source for one in all_measurements(store, list_runs(runs_dir))]
    chosen = known if all_of_them else list(names)
    if not names and not all_of_them:
        raise JobError("which measurements are to be removed?", "Name them, or say --all.")
    _require(chosen, set(known))
    set_removed(store, chosen, gone=True)
    click.echo(f"{len(chosen)} removed\nBack with: tuneyard calibration restore NAME")


@calibration.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@profile_option
def restore(names: tuple[str, ...], profile: str) -> None:
    """Put removed measurements back."""
    store = _store(profile)
    _require(names, removed(store))
    set_removed(store, names, gone=False)
    click.echo(f"{len(names)} put back; {len(read(store))} measurements are kept")


def _store(profile: str) -> Path:
    return store_path(None if profile == LOCAL else load_profile(profile, Path.cwd()).run_folder())


def _require(names: list[str] | tuple[str, ...], known: set[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`tuneyard calibration` lists them."
            raise JobError(f"no measurement is called {name!r}", hint)


def _json(one: Measurement) -> dict[str, Any]:
    return {**one.as_json(), "corrects_time": not one.speed_doubt, "why_not": one.speed_doubt or None}


def _print(found: list[Measurement]) -> None:
    if not found:
        click.echo("nothing was measured yet: plans are the models' own word")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "on", "method", "steps", "time", "memory", "corrects"):
        table.add_column(column, overflow="fold")
    for one in found:
        where, how = f"{one.key.cluster}, {one.key.gpu}", f"{one.key.family} on {one.key.engine}"
        times = [f"x {pair[1] / pair[0]:.2f}" if pair else "" for pair in (one.step_seconds, one.memory)]
        table.add_row(one.source, where, how, str(one.steps), *times, _use(one))
    make_console().print(table, highlight=False)


def _use(one: Measurement) -> str:
    """What it corrects: the time, the memory, or why not."""
    if one.ran_out:
        return "memory: it ran out"
    parts = [*(["memory"] if one.memory else []), *([] if one.speed_doubt else ["time"])]
    doubt = f"; time not: {one.speed_doubt}" if one.step_seconds and one.speed_doubt else ""
    return " and ".join(parts) + doubt


def _rows(one: Measurement) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "name": one.source,
        "measured": datetime.fromtimestamp(one.time).astimezone().isoformat(sep=" ", timespec="minutes"),
        "for": f"{one.key.family} on {one.key.engine}, {one.key.gpu}, cluster {one.key.cluster}",
        "steps": one.steps,
    }
    if one.step_seconds:
        rows["s a step"] = f"{one.step_seconds[1]:.3g}, predicted {one.step_seconds[0]:.3g}"
    if one.memory:
        rows["memory"] = f"{size(one.memory[1])}, predicted {size(one.memory[0])}"
    return rows | {"corrects": _use(one)} | {name: value for name, value in one.note.items() if value is not None}
