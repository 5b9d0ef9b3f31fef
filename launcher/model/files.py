"""Where a model's files lie: in a folder, or in the hub's cache here. Nothing is downloaded."""

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
    """The model's `config.json`, if it is on this machine.

    Args:
        model: A folder, or a name on the hub.
        revision: Commit, branch or tag of a hub model; `main` when not given.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / "config.json"
    with contextlib.suppress(OSError):  # a cache that may not be read holds nothing for us
        there = snapshot(model, revision, hub_cache())
        config = there / "config.json" if there else None
        return config if config and config.is_file() else None
    return None


def hub_cache(environment: Mapping[str, str] | None = None) -> Path:
    """The folder where Hugging Face's libraries keep what they downloaded.

    Args:
        environment: The variables that say so; this process's when not given.
    """
    said = os.environ if environment is None else environment
    if found := said.get("HF_HUB_CACHE") or said.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(found, said)
    return hub_home(said) / "hub"


def offline_switch(environment: Mapping[str, str]) -> str:
    """The variable that keeps Hugging Face's libraries from asking the hub; empty when none does."""
    name = next((name for name in SWITCHES if environment.get(name)), "")
    return name if environment.get(name, "").upper() in TRUE else ""


def snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """The folder in a hub's cache that holds a model's files of one revision, if it is there."""
    repository = cache / f"models--{model.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or "main"
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def what_is_missing(model: str, revision: str | None, cache: Path) -> str:
    """What a cache lacks of a model, in words; empty when a run finds there all that it loads."""
    try:
        return _what_is_missing(model, revision, cache)
    except OSError as error:
        return f"{cache} cannot be read: {error.strerror}"


def _what_is_missing(model: str, revision: str | None, cache: Path) -> str:
    folder = snapshot(model, revision, cache)
    if folder is None:
        return f"{cache} does not hold it" + (f" at revision {revision}" if revision else "")
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("its tokenizer")
    missing += _missing_weights(folder)
    return f"{folder} lacks {' and '.join(missing)}" if missing else ""


def dataset_is_cached(name: str, environment: Mapping[str, str]) -> bool:
    """Whether anything of a hub data set is in a cache: as `datasets` keeps it, or as the hub's files."""
    tables = environment.get("HF_DATASETS_CACHE") or str(hub_home(environment) / "datasets")
    raw = hub_cache(environment) / f"datasets--{name.replace('/', '--')}"
    with contextlib.suppress(OSError):
        return raw.is_dir() or (_expanded(tables, environment) / name.replace("/", "___")).is_dir()
    return False


def _missing_weights(folder: Path) -> list[str]:
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return [] if (folder / WEIGHTS).is_file() else ["its weights"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"a readable {WEIGHTS_INDEX}"]
    missing = [name for name in shards if not (folder / name).is_file()]
    return [f"{len(missing)} of {len(shards)} files of its weights"] if missing else []


def hub_home(said: Mapping[str, str]) -> Path:
    """The folder of Hugging Face's libraries: caches, and the token."""
    if said.get("HF_HOME"):
        return _expanded(said["HF_HOME"], said)
    caches = said.get("XDG_CACHE_HOME") or str(Path(said.get("HOME") or home()) / ".cache")
    return _expanded(caches, said) / "huggingface"


def _expanded(path: str, said: Mapping[str, str]) -> Path:
    mine = said.get("HOME") or str(home())
    return Path(mine + path[1:] if path == "~" or path.startswith("~/") else path)
