"""The held-out loss of a model that Transformers or PEFT has loaded, with nothing of ours in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def held_out(model: Any, run: Path, config: Any) -> float:
    """Loss per supervised token over the held-out conversations, each alone, by the model's own loss."""
    import torch

    from trainer.data.pack.global_order import GlobalOrder
    from trainer.data.shards.token_store import TokenStore

    order = GlobalOrder(TokenStore(run / "data" / "train"), config)
    total = tokens = 0.0
    for number in order.held_out:
        ids, mask = order.store.conversation(int(number))
        flat = torch.from_numpy(ids.astype("int64"))[None]
        labels = torch.where(torch.from_numpy(mask.astype(bool))[None], flat, -100)
        count = int(order.store.rows["targets"][number])
        with torch.no_grad():
            total += float(model.eval()(input_ids=flat, labels=labels).loss) * count
        tokens += count
    return total / tokens
