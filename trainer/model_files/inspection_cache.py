"""What was found out about a model before it trains, so that it is found out once. Imports no torch.

The findings hold for a configuration, the names and shapes in its files, and the releases that looked at them; they
lie in `~/.cache/tuneyard/models`, or where `TUNEYARD_CACHE` says.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from trainer.config import ModelConfig
from trainer.errors import UserError
from trainer.model_files.headers import config_file, weight_headers
from trainer.runtime.files import read_json, write_json_atomic

TRAINER = Path(__file__).parents[1]
LOOKING = (TRAINER / "model", TRAINER / "model_files")
"""Where the code is that looks: with other code, a model is looked at again."""
PACKED, ALONE, REFUSED = "packed", "alone", "refused"
"""How a model is run: conversations end to end in one row, each in a row of its own, or not at all."""
NOT_SHAPE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


def inspected(run_dir: Path, model: ModelConfig) -> dict[str, Any]:
    """What is known of a run's model; if nothing is, a process of its own looks, because torch takes seconds to load.

    Raises:
        UserError: the model cannot be trained: its files do not hold its weights, or Transformers cannot run it.
    """
    weights, verdict = recall(weights_key(model)), recall(architecture_key(model))
    if weights is not None and verdict is not None:
        return {"weights": weights, "verdict": verdict}
    return _look(run_dir)


def _look(run_dir: Path) -> dict[str, Any]:
    line = [sys.executable, "-m", "trainer", "inspect", str(run_dir)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"looking at the model broke with exit code {done.returncode}, see above") from None
    if "refused" in found:
        raise UserError(found["refused"], where=found["where"], remedy=found["remedy"])
    return found


def recall(key: str | None) -> dict[str, Any] | None:
    """What was found under a key; None where that is nothing, or cannot be read: it will be found out again."""
    try:
        found = read_json(_cache() / f"{key}.json") if key else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(key: str | None, found: dict[str, Any]) -> None:
    """Keep what was found. Where nothing can be kept, it will be found out again."""
    if key is None:
        return
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        write_json_atomic(_cache() / f"{key}.json", found)
    except OSError as error:
        print(f"what was found out about the model is not kept: {error}", file=sys.stderr)


def weights_key(model: ModelConfig) -> str | None:
    """Of what is found about the files; None for a model that has to be fetched, or runs code of its own.

    Raises:
        UserError: files are missing or damaged.
    """
    architecture = architecture_key(model)
    headers = weight_headers(model) if architecture else None
    return None if headers is None else _digest("weights", architecture, headers.digest())


def architecture_key(model: ModelConfig) -> str | None:
    """Of what is found about the architecture; None for a model that has to be fetched, or runs code of its own."""
    file = config_file(model)
    if file is None or model.trust_remote_code:
        return None
    shape = json.loads(file.read_text(encoding="utf-8"))
    return _digest({name: value for name, value in shape.items() if name not in NOT_SHAPE}, _releases())


@cache
def _releases() -> str:
    """What looks: this code, and the libraries that it looks with."""
    files = sorted(path for folder in LOOKING for path in folder.rglob("*.py"))
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return _digest([importlib.metadata.version(name) for name in ("transformers", "torch")], code)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _cache() -> Path:
    try:
        usual = Path.home() / ".cache"
    except RuntimeError:  # a user number without a name, as containers have: nothing can be kept
        usual = Path("/nonexistent")
    home = Path(os.environ.get("XDG_CACHE_HOME") or usual)
    return Path(os.environ.get("TUNEYARD_CACHE") or home / "tuneyard") / "models"
