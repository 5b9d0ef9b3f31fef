"""Print facts: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from launcher.report.preflight import preflight_findings, preflight_sources, preflight_table, preflight_warnings

BAR_WIDTH = 44
PIPED_WIDTH = 110


def make_console(*, stderr: bool = False, piped_width: int = PIPED_WIDTH) -> Console:
    """Return a console that does not fold tables to 80 columns in a file and does not interpret `[/x]` as markup."""
    console = Console(stderr=stderr, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, width=piped_width, markup=False)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def facts(rows: dict[str, Any]) -> Table:
    """Return a table of names and values without lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def print_preflight(preflight: dict[str, Any], console: Console) -> None:
    """Print the preflight report: counts with a column for each split, findings, sources and warnings."""
    found = preflight_table(preflight)
    if found is None:
        return
    _print_columns(("Data", *found["splits"]), [(name, *cells) for name, cells in found["rows"]], console)
    findings = preflight_findings(preflight)
    if findings:
        console.print()
        _print_columns(("Findings", "rows", "such as"), findings, console)
    sources = preflight_sources(preflight)
    if len(sources) > 1:
        console.print()
        _print_columns(("Sources", "rows", "tokens", "lost"), sources, console)
    for split, warning in preflight_warnings(preflight):
        console.print(f"warning: {split}: {warning}", style="yellow", highlight=False, markup=False)


def _print_columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], console: Console) -> None:
    """Print a table without lines: names and examples to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for name in head:
        left = name in (head[0], "such as")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def print_bars(title: str, parts: dict[str, float], full: float, unit: str, console: Console) -> None:
    """Print values as horizontal bars; `full` is the value of a bar of full width."""
    console.print(title, style="bold", highlight=False)
    width = max((len(name) for name in parts), default=0)
    for name, value in parts.items():
        bar = "#" * max(1, min(BAR_WIDTH, round(BAR_WIDTH * value / full)))
        console.print(f"  {name:<{width}}  {value:8.2f}{unit}  {bar}", highlight=False)
