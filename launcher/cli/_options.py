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
    """A path as a shell wants it: the commands that are printed are there to be pasted."""
    return shlex.quote(str(path))


def run_argument(command: Command) -> Command:
    """Adds the argument RUN and the option --runs; the verb gets the run directory that they name."""
    command = click.argument("run_name", metavar="RUN")(command)
    return runs_option(command)


def last_run_argument(command: Command) -> Command:
    """The same for verbs that only look: without RUN they take the last one."""
    command = click.argument("run_name", metavar="[RUN]", default=LAST)(command)
    return runs_option(command)


def runs_dir_is_given() -> bool:
    """Whether the user says where runs lie, by `--runs` or TUNEYARD_RUNS; otherwise they are looked for anywhere."""
    source = click.get_current_context().get_parameter_source("runs_dir")
    return source is not None and source.name != "DEFAULT"


def run_dir_of(run_name: str, runs_dir: Path) -> Path:
    """The run directory that RUN names: a path, `last`, or the beginning of a name or id."""
    return find_run(run_name, runs_dir, anywhere=not runs_dir_is_given())
