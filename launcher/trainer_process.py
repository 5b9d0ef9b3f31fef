"""Running the trainer's one-process commands: `prepare`, `export`, `evaluate`, `checkpoints`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import launcher
from cluster.installing import install_line
from launcher.errors import EXIT_USER, JobError, MachineError, RunFailedError

PACKAGES = ("torch", "transformers", "datasets", "safetensors", "numpy")


def require_trainer() -> None:
    """Refuses where the trainer cannot run.

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
    """Runs `python -m trainer COMMAND RUN_DIR` in the foreground; its errors go where ours go.

    Args:
        command: `prepare`, `export` or `evaluate`.
        run_dir: The run directory.
        arguments: What follows on the command line.
        on_line: Gets each line that it prints; by default they are printed.

    Raises:
        JobError: the job or the data is wrong; the trainer has said how.
        RunFailedError: it broke.
    """
    line = [sys.executable, "-m", "trainer", command, str(run_dir), *arguments]
    code = _run(line, on_line or click.echo)
    if code == EXIT_USER:
        raise JobError(f"{command}: the job or its data is wrong, see above")
    if code:
        raise RunFailedError(f"{command} broke with exit code {code}, see above", f"Run directory: {run_dir}")


def ask_trainer(command: str, run_dir: Path, *arguments: str) -> dict[str, Any]:
    """Runs a command that answers with one JSON object, and gives the object. Needs no torch.

    Raises:
        JobError: the arguments or the run directory are wrong; the trainer has said how.
        RunFailedError: it broke, or its answer is no JSON.
    """
    said: list[str] = []
    run_trainer(command, run_dir, *arguments, on_line=said.append)
    try:
        answer = json.loads("\n".join(said))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RunFailedError(f"{command} did not answer with a JSON object: {said[-1] if said else 'nothing'}")
    return answer


def _run(line: list[str], on_line: Callable[[str], None]) -> int:
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:  # a session of its own: Ctrl-C reaches us alone, and we end it quietly
        assert process.stdout is not None
        try:
            for text in process.stdout:
                on_line(text.rstrip("\n"))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # whatever it wrote appears whole or not at all
            raise
    return process.returncode


def environment() -> dict[str, str]:
    """This environment, with the folder that these packages lie in importable."""
    root = str(Path(launcher.__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
