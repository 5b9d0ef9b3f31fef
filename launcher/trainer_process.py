"""Running the trainer's one-process commands: `prepare`, `export`, `evaluate`, `checkpoints`."""

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
from cluster.installing import install_line
from launcher.errors import JobError, MachineError, RunFailedError
from rundir.errors import EXIT_USER

PARENT = "TUNEYARD_PARENT"
"""Tells the trainer whom it works for: it ends when that is killed."""
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
    """Runs `python -m trainer COMMAND RUN_DIR` in the foreground.

    What libraries print beside is not shown. Of a failure the trainer's own message is raised; of one that nobody
    foresaw, the last words, with the file that holds all of them.

    Args:
        command: `prepare`, `export` or `evaluate`.
        run_dir: The run directory.
        arguments: What follows on the command line.
        on_line: Gets each line that it prints; by default they are printed.

    Raises:
        JobError: the job or the data is wrong, and how.
        RunFailedError: it broke.
    """
    line = [sys.executable, "-m", "trainer", command, str(run_dir), *arguments]
    with tempfile.NamedTemporaryFile("w+", prefix=f"tuneyard-{command}-", suffix=".log", delete=False) as errors:
        said = Path(errors.name)
    try:
        with said.open("w", encoding="utf-8") as errors:
            code = _run(line, on_line or click.echo, errors)
        text = said.read_text(encoding="utf-8", errors="replace")
    except BaseException:
        said.unlink()
        raise
    if code and code != EXIT_USER:
        last = next((words.strip() for words in reversed(text.splitlines()) if words.strip()), "no words")
        raise RunFailedError(f"{command} broke ({_ending(code)}): {last}", f"All that it printed: {said}")
    said.unlink()
    if code:
        raise JobError(*user_error(text))


def user_error(text: str) -> tuple[str, str]:
    """Message and remedy of the trainer's last error, without what libraries printed before it."""
    _, found, words = f"\n{text}".rpartition("\nerror: ")
    message, _, remedy = (words if found else text).strip().partition("\n  what to do: ")
    return message or "the trainer said nothing", remedy and remedy[0].upper() + remedy[1:]


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


def ask_trainer(command: str, run_dir: Path, *arguments: str) -> dict[str, Any]:
    """Runs a command that answers with one JSON object, and gives the object. Needs no torch.

    Raises:
        JobError: the arguments or the run directory are wrong, and how.
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


def _run(line: list[str], on_line: Callable[[str], None], errors: IO[str]) -> int:
    with subprocess.Popen(
        line,
        env={**environment(), PARENT: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it quietly
    ) as process:
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
