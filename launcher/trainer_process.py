"""Run the trainer's one-process commands, such as `prepare`, `export`, `evaluate` and `checkpoints`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

import launcher
from cluster.submitting.installing import install_line
from launcher.errors import JobError, MachineError, RunFailedError
from rundir.errors import EXIT_USER

PARENT = "TUNEYARD_PARENT"
"""Environment variable with this process's ID: the trainer exits when that process is killed."""
PACKAGES = ("torch", "transformers", "datasets", "safetensors", "numpy")


def require_trainer() -> None:
    """Refuse a machine on which the trainer cannot run.

    Raises:
        MachineError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"training on this machine needs {', '.join(missing)}",
            f"Install it: {install_line('train')}",
        )


def run_trainer(command: str, run_dir: Path, *arguments: str, on_line: Callable[[str], None] | None = None) -> None:
    """Run `python -m trainer COMMAND RUN_DIR` in the foreground.

    Standard error, with whatever libraries print, goes to a temporary file. If the trainer reports an error, its
    message is raised. If it crashes, the last line of that file is raised and the file is kept.

    Args:
        command: The trainer's command, such as `prepare`, `export` or `evaluate`.
        run_dir: The run directory.
        arguments: Further arguments of the command.
        on_line: Called with each line of standard output; prints it by default.

    Raises:
        JobError: the trainer reported an error of the job or the data.
        RunFailedError: the trainer crashed.
    """
    command_line = [sys.executable, "-m", "trainer", command, str(run_dir), *arguments]
    with tempfile.NamedTemporaryFile("w+", prefix=f"tuneyard-{command}-", suffix=".log", delete=False) as errors:
        log_file = Path(errors.name)
    try:
        with log_file.open("w", encoding="utf-8") as errors:
            code = _run(command_line, on_line or click.echo, errors)
        text = log_file.read_text(encoding="utf-8", errors="replace")
    except BaseException:
        log_file.unlink()
        raise
    if code and code != EXIT_USER:
        last_line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no words")
        ending = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        raise RunFailedError(f"{command} broke ({ending}): {last_line}", f"All that it printed: {log_file}")
    log_file.unlink()
    if code:
        raise JobError(*parse_user_error(text))


def parse_user_error(text: str) -> tuple[str, str]:
    """Return message and remedy of the last error in the trainer's output, without the output of libraries."""
    _, found, error = f"\n{text}".rpartition("\nerror: ")
    message, _, remedy = (error if found else text).strip().partition("\n  what to do: ")
    return message or "the trainer said nothing", remedy and remedy[0].upper() + remedy[1:]


def ask_trainer(command: str, run_dir: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the trainer that prints one JSON object, and return the object. Needs no torch.

    Raises:
        JobError: the trainer reported an error of the arguments or the run directory.
        RunFailedError: the trainer crashed, or did not print a JSON object.
    """
    lines: list[str] = []
    run_trainer(command, run_dir, *arguments, on_line=lines.append)
    try:
        answer = json.loads("\n".join(lines))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RunFailedError(f"{command} did not answer with a JSON object: {lines[-1] if lines else 'nothing'}")
    return answer


def _run(command_line: list[str], on_line: Callable[[str], None], errors: IO[str]) -> int:
    """Run a command to its end and return its exit code; an exception here, also Ctrl-C, kills it."""
    with subprocess.Popen(
        command_line,
        env={**environment(), PARENT: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C goes to this process only, which then kills the trainer
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                on_line(text.rstrip("\n"))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # safe: the trainer publishes its files by rename
            raise
    return process.returncode


def environment() -> dict[str, str]:
    """Return this process's environment with the folder of these packages at the front of PYTHONPATH."""
    root = str(Path(launcher.__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
