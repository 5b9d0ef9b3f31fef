"""Where a model's `config.json` lies: in a folder, or in the hub's cache here. Nothing is downloaded."""

from __future__ import annotations

import os
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
    repository = hub_cache() / f"models--{model.replace('/', '--')}"
    commit = _commit(repository, revision or "main")
    config = repository / "snapshots" / commit / "config.json"
    return config if config.is_file() else None


def hub_cache() -> Path:
    """The folder where Hugging Face's libraries keep what they downloaded."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _commit(repository: Path, revision: str) -> str:
    reference = repository / "refs" / revision
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
