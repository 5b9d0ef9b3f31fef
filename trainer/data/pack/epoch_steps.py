"""How many steps each epoch has, remembered beside the data: resume finds its place without packing earlier epochs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.config import TrainerConfig
from trainer.runtime.files import read_json, write_json_atomic

FILE = "epochs.json"


def order_key(fingerprint: str, config: TrainerConfig) -> str:
    """Digest of everything that the order of packs depends on."""
    facts: list[Any] = [
        fingerprint,
        config.training.seed,
        config.execution.packs_per_step,
        config.data.max_length,
        config.data.packing,
        config.data.eval.split,
        [source.weight for source in config.data.train],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def known_steps(data_dir: Path, key: str) -> list[int]:
    """Steps of the epochs that were counted before; empty when that is not known."""
    try:
        kept = read_json(data_dir / FILE) or {}
    except (OSError, ValueError):
        return []
    return kept["steps"] if kept.get("key") == key else []


def remember_steps(data_dir: Path, key: str, steps: list[int]) -> None:
    """Keep what was counted. A full disk costs the next attempt some time, no more."""
    with contextlib.suppress(OSError):
        write_json_atomic(data_dir / FILE, {"key": key, "steps": steps})
