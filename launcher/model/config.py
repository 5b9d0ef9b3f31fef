"""Read the configuration of a job's model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.model.files import find_config
from launcher.sizing.shape import config_by_name, find_model, read_config
from trainer.capabilities import refusal
from trainer.config import ModelConfig


def config_of(model: ModelConfig) -> dict[str, Any]:
    """Return the model's `config.json`, else its entry in the catalogue, else an empty dictionary.

    Raises:
        JobError: the file cannot be read.
    """
    named = Path(model.path)
    path = named if named.suffix == ".json" and named.is_file() else find_config(model.path, model.revision)
    if path is not None:
        return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)
    name = find_model(model.path)
    return config_by_name(name) if name else {}


def require_trainable(model: str) -> None:
    """Refuse a model that the trainer cannot train, as `plan` does; for commands without a job file.

    Args:
        model: A name, a folder, or the path of a config.json.

    Raises:
        JobError: the model cannot be trained, or its configuration cannot be read.
    """
    if refused := refusal(config_of(ModelConfig(path=model))):
        raise JobError(f"{model}: {refused.message}", refused.remedy)


@functools.lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> dict[str, Any]:
    """Read a `config.json`; `changed` (mtime in ns) belongs to the cache key, so that a changed file is read again."""
    return read_config(path)
