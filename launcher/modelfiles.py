"""Where a model's `config.json` lies: in a folder, or in the hub's cache here. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def find_config(model: str, revision: str | None = None) -> Path | None:
    """The model's `config.json`, if it is on this machine.

    Args:
        model: A folder, or a name on the hub.
        revision: Commit, branch or tag of a hub model; `main` when not given.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / "config.json"
    there = snapshot(model, revision, hub_cache())
    config = there / "config.json" if there else None
    return config if config and config.is_file() else None


def snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """The folder in a hub's cache that holds a model's files of one commit, if it is there."""
    repository = cache / f"models--{model.replace('/', '--')}"
    folder = repository / "snapshots" / _commit(repository, revision or "main")
    return folder if folder.is_dir() else None


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder where Hugging Face's libraries keep what they downloaded."""
    caches = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = environment.get("HF_HOME") or caches / "huggingface"
    return Path(environment.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _commit(repository: Path, revision: str) -> str:
    reference = repository / "refs" / revision
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
