"""`tuneyard doctor`: is this machine, or a site, fit for runs; and what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from launcher.cli._options import json_option, runs_option
from launcher.cli._output import make_console, print_json
from launcher.doctor import FAIL, OK, WARN, Check, report_json
from launcher.doctor.machine import machine_checks
from launcher.site.profile import LOCAL, known_profiles, load_profile
from rundir.errors import EXIT_ENVIRONMENT, EXIT_OK, EXIT_USER

COLORS = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@click.command()
@click.option("--profile", "-p", metavar="P", help="A site profile, by name or path: check it against its site.")
@click.option("--draft", is_flag=True, help="Print a profile drafted from the site.")
@click.option("--partition", metavar="NAME", help="With --draft: the partition to draft for.")
@click.option("--kubernetes", is_flag=True, help="With --draft: from the cluster of your kubeconfig; else SLURM.")
@click.option("--profiles", "list_them", is_flag=True, help="List the profiles that can be named.")
@runs_option
@json_option
def doctor(
    profile: str | None,
    draft: bool,
    partition: str | None,
    kubernetes: bool,
    list_them: bool,
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Check this machine, or a site profile against its site. Starts and changes nothing."""
    if list_them:
        return _list_profiles(as_json)
    if draft:
        return _draft("kubernetes" if kubernetes else "slurm", partition, as_json)
    if profile and profile != LOCAL:
        found = load_profile(profile)
        return _show(
            _at(found.backend).report(found),
            as_json,
            EXIT_USER,
            f"tuneyard submit JOB, with cluster.profile: {profile}",
        )
    return _show(machine_checks(runs_dir), as_json, EXIT_ENVIRONMENT, "tuneyard init, or tuneyard doctor --profile P")


def _show(checks: Iterable[Check], as_json: bool, failed_code: int, next_step: str) -> int:
    found = list(checks)
    if as_json:
        print_json(report_json(found))
    else:
        _print(found)
        counts = {verdict: sum(check.verdict == verdict for check in found) for verdict in COLORS}
        click.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
        click.echo(f"Next: {next_step}" if not counts[FAIL] else "Next: mend what failed, and ask again")
    return failed_code if any(check.verdict == FAIL for check in found) else EXIT_OK


def _print(checks: list[Check]) -> None:
    console = make_console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        remedy = f"; {check.remedy}" if check.remedy else ""
        table.add_row(Text(check.verdict, style=COLORS[check.verdict]), check.name, check.words + remedy)
    console.print(table, highlight=False)


def _draft(scheduler: str, partition: str | None, as_json: bool) -> int:
    text = _at(scheduler).draft(partition)
    if as_json:
        print_json({"profile": text})
    else:
        click.echo(text, nl=False)
    return EXIT_OK


def _at(scheduler: str) -> Any:
    """The module that knows this scheduler's sites: `report` checks a profile, `draft` writes one."""
    return import_module(f"launcher.doctor.{scheduler}")


def _list_profiles(as_json: bool) -> int:
    found = {name: str(path) for name, path in sorted(known_profiles().items())}
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(f"{name}  {path}" for name, path in found.items()))
    return EXIT_OK
