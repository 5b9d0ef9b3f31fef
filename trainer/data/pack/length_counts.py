"""How many conversations of each length a run's data has, kept beside it: other plans reckon their steps from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rundir.quantities import count
from trainer.config import TrainerConfig
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.shards.token_store import TokenStore
from trainer.runtime.files import read_json, write_json_atomic
from trainer.schedule_rules import FEW_STEPS, refuse_schedule, warmup_count

FILE = "lengths.json"
FAR = 1.3
"""A factor between the steps that were planned and those that come that is worth a word."""


def settle_steps(data_dir: Path, config: TrainerConfig) -> str:
    """Counts the run's steps now that its lengths are known, and says how many; lengths are kept for other plans.

    Raises:
        UserError: the schedule cannot be followed in so many steps.
    """
    store = TokenStore(data_dir / "train")
    write_json_atomic(data_dir / FILE, {"sources": _histograms(store, len(config.data.train))})
    steps = GlobalOrder(store, config).max_steps
    refuse_schedule(config.training, steps)
    promised = ((read_json(data_dir.parent / "plan.json") or {}).get("steps") or {}).get("number") or steps
    return _in_words(config, steps, promised)


def _histograms(store: TokenStore, sources: int) -> list[list[list[int]]]:
    """For each source its lengths, each with how many conversations have it."""
    rows = store.rows
    counted = (np.unique(rows["length"][rows["source"] == s], return_counts=True) for s in range(sources))
    return [np.stack(pair, axis=1).tolist() for pair in counted]


def _in_words(config: TrainerConfig, steps: int, promised: int) -> str:
    warmup = warmup_count(config.training, steps)
    words = f"{count(steps, 'optimizer step')}, the first {warmup} of them warm-up"
    if not 1 / FAR < steps / promised < FAR:
        words += f" (the plan reckoned with about {promised})"
    return words if steps >= FEW_STEPS else f"warning: only {words}: some {FEW_STEPS} are the least to learn from"
