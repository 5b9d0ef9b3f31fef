"""The auxiliary loss that keeps a router's experts evenly busy, one conversation at a time.

Switch Transformers' loss as Transformers computes it: experts times the sum, over experts, of the share of choices
that fall on one times its mean probability, over all tokens of all layers. Being a product of means it depends on
which tokens are taken together; a conversation is what stays together whatever the micro-batch and the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.config import LossConfig
from trainer.data.pack.batch import Batch
from trainer.errors import UserError

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
CHOICES = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k")


@dataclass(frozen=True)
class RouterSettings:
    """How the auxiliary loss enters.

    Attributes:
        coefficient: its weight beside the cross-entropy.
        choices: experts that each token is sent to.
    """

    coefficient: float
    choices: int


def router_settings(causal_lm: Any, loss: LossConfig) -> RouterSettings | None:
    """What the job asks for, `auto` being what the model's configuration says; None where there is no such loss.

    Raises:
        UserError: it is asked for, and the model has no router that tells what it chose.
    """
    config = causal_lm.config.get_text_config()
    asked = loss.output_router_logits
    if not (getattr(config, "output_router_logits", False) if asked == "auto" else asked):
        return None
    coefficient, choices = _first(causal_lm, config, COEFFICIENTS), _first(causal_lm, config, CHOICES)
    if loss.router_aux_loss_coef != "auto":
        coefficient = loss.router_aux_loss_coef
    if coefficient is None or choices is None or not hasattr(config, "output_router_logits"):
        if asked == "auto":  # Transformers then adds nothing either
            return None
        raise UserError(
            f"{type(causal_lm).__name__} has no router whose choices could be balanced",
            remedy="take loss.output_router_logits out, or set it to false",
        )
    return RouterSettings(float(coefficient), int(choices)) if coefficient else None


def balancing_loss(router_logits: tuple[torch.Tensor, ...], batch: Batch, places: torch.Tensor, choices: int) -> Any:
    """Auxiliary loss of each conversation, float32 [S].

    Args:
        router_logits: of each layer, a row of numbers for every token that went through it.
        places: int64 [T], the rows that are the batch's tokens; others are padding.
    """
    segments = len(batch.cu_seqlens) - 1
    rows = torch.arange(batch.input_ids.shape[1], device=places.device, dtype=torch.int32)
    segment = torch.searchsorted(batch.cu_seqlens, rows, right=True) - 1
    experts = router_logits[0].shape[-1]
    chosen = torch.zeros(segments, experts, device=places.device)
    probability = torch.zeros(segments, experts, device=places.device)
    for logits in router_logits:
        shares = logits.reshape(-1, experts).index_select(0, places).float().softmax(-1)
        picked = torch.zeros_like(shares).scatter_(1, shares.topk(choices).indices, 1.0)
        chosen = chosen.index_add(0, segment, picked)
        probability = probability.index_add(0, segment, shares)
    rows_each = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).float() * len(router_logits)
    return experts * (chosen * probability).sum(1) / rows_each**2


def weight_of_conversations(batch: Batch) -> torch.Tensor:
    """Summed weight of the supervised tokens of each conversation, float32 [S]."""
    segments = len(batch.cu_seqlens) - 1
    owner = torch.searchsorted(batch.cu_seqlens, batch.target_index.int(), right=True) - 1
    return torch.zeros(segments, device=batch.target_weights.device).index_add(0, owner, batch.target_weights)


def _first(causal_lm: Any, config: Any, names: tuple[str, ...]) -> Any:
    found = (getattr(owner, name, None) for name in names for owner in (causal_lm, config))
    return next((value for value in found if isinstance(value, int | float)), None)
