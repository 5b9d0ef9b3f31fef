"""Find a model's files in a folder or in this machine's Hugging Face cache. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from launcher.home import home

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = ("1", "ON", "YES", "TRUE")


def find_config(model: str, revision: str | None = None) -> Path | None:
    """Return the path of the model's `config.json`, or None if it is not on this machine.

    Args:
        model: A folder, or a name on the hub.
        revision: Commit, branch or tag of a hub model; `main` when not given.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / "config.json"
    with contextlib.suppress(OSError):  # a cache without read permission counts as empty
        files = snapshot(model, revision, hub_cache())
        config = files / "config.json" if files else None
        return config if config and config.is_file() else None
    return None


def hub_cache(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder in which Hugging Face's libraries keep downloaded files.

    Args:
        environment: Environment variables to read it from; those of this process when not given.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return _expand_home(named, environment)
    return hub_home(environment) / "hub"


def offline_switch(environment: Mapping[str, str]) -> str:
    """Return the name of the variable that puts Hugging Face's libraries into offline mode; empty if none does."""
    name = next((name for name in SWITCHES if environment.get(name)), "")
    return name if environment.get(name, "").upper() in TRUE else ""


def snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """Return the folder in a hub cache with a model's files of one revision, or None."""
    repository = cache / f"models--{model.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or "main"
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def describe_missing_files(model: str, revision: str | None, cache: Path) -> str:
    """Return a sentence about what a hub cache lacks of a model; empty if all files that a run loads are there."""
    try:
        folder = snapshot(model, revision, cache)
        if folder is None:
            return f"{cache} does not hold it" + (f" at revision {revision}" if revision else "")
        missing = [] if (folder / "config.json").is_file() else ["config.json"]
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            missing.append("its tokenizer")
        missing += _missing_weights(folder)
        return f"{folder} lacks {' and '.join(missing)}" if missing else ""
    except OSError as error:
        return f"{cache} cannot be read: {error.strerror}"


def dataset_is_cached(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether a hub dataset is in the cache of `datasets` or, as raw files, in the hub's cache."""
    tables = environment.get("HF_DATASETS_CACHE") or str(hub_home(environment) / "datasets")
    raw = hub_cache(environment) / f"datasets--{name.replace('/', '--')}"
    with contextlib.suppress(OSError):
        return raw.is_dir() or (_expand_home(tables, environment) / name.replace("/", "___")).is_dir()
    return False


def _missing_weights(folder: Path) -> list[str]:
    """Return what is missing of a model's weights as at most one phrase; a sharded model is checked by its index."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return [] if (folder / WEIGHTS).is_file() else ["its weights"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"a readable {WEIGHTS_INDEX}"]
    missing = [name for name in shards if not (folder / name).is_file()]
    return [f"{len(missing)} of {len(shards)} files of its weights"] if missing else []


def hub_home(environment: Mapping[str, str]) -> Path:
    """Return the folder in which Hugging Face's libraries keep their caches and the token (`HF_HOME`)."""
    if environment.get("HF_HOME"):
        return _expand_home(environment["HF_HOME"], environment)
    caches = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or home()) / ".cache")
    return _expand_home(caches, environment) / "huggingface"


def _expand_home(path: str, environment: Mapping[str, str]) -> Path:
    """Expand `~` to the HOME of the given environment, which may be that of a run on another machine."""
    home_folder = environment.get("HOME") or str(home())
    return Path(home_folder + path[1:] if path == "~" or path.startswith("~/") else path)
