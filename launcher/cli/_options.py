"""Arguments and options that several verbs share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from launcher.runs.directory import LAST, find_run

Command = TypeVar("Command", bound=Callable[..., Any])

job_argument = click.argument("job_file", metavar="JOB", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as one JSON object.")
runs_option = click.option(
    "--runs",
    "runs_dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="TUNEYARD_RUNS",
    show_default=True,
    help="Folder of run directories.",
)
no_correction_option = click.option(
    "--no-correction", is_flag=True, help="Predict by the models alone, whatever earlier runs have shown."
)
detach_option = click.option("--detach", is_flag=True, help="Do not follow the run.")


def quoted(path: Path) -> str:
    """Quote a path for a shell, so that printed commands can be pasted."""
    return shlex.quote(str(path))


def run_argument(command: Command) -> Command:
    """Add the argument RUN and the option --runs to a command."""
    command = click.argument("run_name", metavar="RUN")(command)
    return runs_option(command)


def last_run_argument(command: Command) -> Command:
    """Add an optional argument RUN, by default the last run, and --runs; for commands that change nothing."""
    command = click.argument("run_name", metavar="[RUN]", default=LAST)(command)
    return runs_option(command)


def runs_dir_is_given() -> bool:
    """Return whether `--runs` or TUNEYARD_RUNS names the folder of runs; if not, all known runs are searched."""
    source = click.get_current_context().get_parameter_source("runs_dir")
    return source is not None and source.name != "DEFAULT"


def run_dir_of(run_name: str, runs_dir: Path) -> Path:
    """Return the run directory that RUN names: a path, `last`, or the beginning of a name or id."""
    return find_run(run_name, runs_dir, anywhere=not runs_dir_is_given())
