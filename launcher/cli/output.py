"""How facts are printed: tables for people, JSON for programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from launcher.prediction import GIB
from launcher.rundata import preflight_table

BAR_WIDTH = 44
PIPED_WIDTH = 110


def make_console(*, stderr: bool = False, piped_width: int = PIPED_WIDTH) -> Console:
    """A console that does not fold tables to 80 columns in a file, and takes `[/x]` in a value for what it is."""
    console = Console(stderr=stderr, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, width=piped_width, markup=False)


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


def print_bars(title: str, parts: dict[str, float], full: float, unit: str, console: Console) -> None:
    """Values as bars beside each other; a bar of the whole width is `full`."""
    console.print(title, style="bold", highlight=False)
    width = max((len(name) for name in parts), default=0)
    for name, value in parts.items():
        bar = "#" * max(1, min(BAR_WIDTH, round(BAR_WIDTH * value / full)))
        console.print(f"  {name:<{width}}  {value:8.2f}{unit}  {bar}", highlight=False)
