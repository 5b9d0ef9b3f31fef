"""Loss on held-out conversations: weighted by tokens, independent of batch size and number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.pack.batch import Reduction, collate
from trainer.data.pack.global_order import EVAL_EPOCH, GlobalOrder, pack_members
from trainer.data.shards.token_store import TokenStore
from trainer.engines.base import Engine
from trainer.errors import UserError
from trainer.runtime.collectives import Ranks
from trainer.runtime.phase_progress import counting


class NoHeldOutLossError(UserError):
    """The held-out rows have no loss; nothing was computed."""


def held_out_loss(
    engine: Engine, run_dir: Path, order: GlobalOrder, ranks: Ranks, pulse: Callable[[], None] = lambda: None
) -> dict[str, Any] | None:
    """Mean cross-entropy per supervised token over all held-out conversations; a collective.

    Args:
        pulse: called after every round, as a sign of life.

    Returns:
        {"eval_loss", "eval_perplexity", "eval_tokens"}, or None when nothing is held out.

    Raises:
        NoHeldOutLossError: no held-out token counts; on all ranks, before any work.
    """
    store, members = _held_out(run_dir, order)
    if not len(members):
        return None
    reduction = Reduction(store, "token")
    targets = reduction.total(members)
    if targets <= 0:
        raise NoHeldOutLossError(
            f"all {len(members)} held-out rows have weight 0",
            remedy="hold out other rows (data.eval), or give them a weight",
        )
    packs = pack_members(store, members, order.config, EVAL_EPOCH)
    loss = torch.zeros((), device=engine.device)
    with counting(run_dir if ranks.rank == 0 else None, "evaluating", len(packs), "packs") as counter:
        for first in range(0, len(packs), ranks.size):  # every rank takes part in every round
            own = first + ranks.rank
            numbers = [int(n) for n in packs[own]] if own < len(packs) else []
            loss += engine.evaluate(collate(store, numbers, reduction).to(engine.device))
            pulse()
            counter.at(min(first + ranks.size, len(packs)))
    mean = float(ranks.sum(loss[None])[0]) / targets
    return {"eval_loss": mean, "eval_perplexity": math.exp(min(mean, 700.0)), "eval_tokens": int(targets)}


def holds_out(run_dir: Path, order: GlobalOrder) -> bool:
    """Whether there are rows to evaluate on."""
    return len(_held_out(run_dir, order)[1]) > 0


def _held_out(run_dir: Path, order: GlobalOrder) -> tuple[TokenStore, np.ndarray]:
    folder = run_dir / "data" / "eval"
    if folder.is_dir():
        store = TokenStore(folder)
        return store, np.arange(len(store))
    return order.store, order.held_out
