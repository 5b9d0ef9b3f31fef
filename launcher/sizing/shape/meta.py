"""Tensors of a model that Transformers can build: asked of a process of its own, for that alone needs torch."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.submitting.installing import install_line
from launcher.errors import JobError, MachineError, RunFailedError
from launcher.trainer_process import environment

NEEDED = ("torch", "transformers")


def ask_transformers(folder: Path) -> dict[str, Any]:
    """`tensors` (dimensions by name) and `linears` (names of projections) of the model that lies in a folder.

    Raises:
        MachineError: torch or Transformers is not installed here.
        JobError: Transformers does not know the architecture, or cannot build it.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"that needs {' and '.join(missing)}, not installed here", f"Install it: {install_line('train')}"
        )
    config = folder.resolve() / "config.json"
    return _asked(config, config.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _asked(config: Path, changed: int) -> dict[str, Any]:
    """The answer; `changed` is when the file was written, so that a new one is asked about again."""
    line = [sys.executable, "-m", "trainer", "shape", str(config.parent)]
    quiet = environment() | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(line, env=quiet, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise JobError(*_said(done.stderr))
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        raise RunFailedError(f"the trainer gave no shape: {done.stdout[-200:]!r}") from error


def _said(errors: str) -> tuple[str, str]:
    """Message and remedy of what the trainer wrote about its error."""
    message, _, remedy = re.split(r"^error: ", errors, flags=re.M)[-1].strip().partition("\n  what to do: ")
    return message.rpartition("\n")[2] or "the trainer gave no reason", remedy


def has_code(model_type: str) -> bool | None:
    """Whether the Transformers that is installed here has a folder for this; None where it is not. Imports nothing.

    Some types live in a folder of another name, so False is a reason to ask, not an answer.
    """
    found = importlib.util.find_spec("transformers")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        return None
    return any((Path(place) / "models" / model_type.replace("-", "_")).is_dir() for place in places)
