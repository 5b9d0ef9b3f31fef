"""Causal attention within the conversations of one flat row, registered with Transformers as `tuneyard`.

Layers of any Transformers model call `attend`; it runs the kernel that the micro-batch was announced with
(trainer.model.attention.kernels). With `model.attention: own` the model's own attention runs over padded rows instead,
and nothing here is called. Which kernels a model and a device can use, `trainer.capabilities` says.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from trainer.capabilities import CPU_BACKENDS, lacking
from trainer.errors import UserError
from trainer.model.attention.kernels import KERNELS, USE_FLEX, PackedBatchInfo, Scoring

NAME = "tuneyard"
DROPOUTS = ("attention_dropout", "attn_dropout", "attn_pdrop", "dropout_p")
"""Attributes by which attention modules call the dropout of their scores."""

_current: list[PackedBatchInfo] = []


def announce(packed: PackedBatchInfo) -> None:
    """The micro-batch that layers are about to see, in forward pass and recomputation, until the next is announced.

    Not every architecture hands arguments on from its decoder to its attention.
    """
    _current[:] = [packed]


def asked_of_kernels() -> set[str]:
    """What the layers of the micro-batch that was announced last have asked of their scores."""
    return _current[0].asked


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    packed: PackedBatchInfo | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over one flat row.

    Args:
        query: [1, heads, T, head_dim]; key: [1, kv_heads, T, head_dim]; value: [1, kv_heads, T, value_dim].
        packed: the micro-batch; by default the one that was announced.

    Returns:
        [1, T, heads, value_dim], and no attention weights.
    """
    packed = packed or _current[0]
    packed.reached = True
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = Scoring(scale, sliding_window, softcap or None, s_aux)
    packed.asked.update(scoring.extras)
    if lacks := lacking(packed.backend, scoring.extras):  # families that the table does not name
        raise UserError(f"attention `{packed.backend}` has no {lacks}, which this model has", remedy=USE_FLEX)
    return KERNELS[packed.backend](query, key, value, packed, scoring).contiguous(), None


def silence_dropout(model: nn.Module) -> float:
    """Turn off the dropout of attention scores, which no kernel for packed rows has; returns the largest that was on.

    Peers train with it only where a model's configuration declares it, as those of GPT-2's time do.
    """
    largest = 0.0
    for module in model.modules():
        for name in DROPOUTS:
            found = getattr(module, name, None)
            if isinstance(found, nn.Dropout) and found.p:
                largest, found.p = max(largest, found.p), 0.0
            elif isinstance(found, float) and found:
                largest = max(largest, found)
                setattr(module, name, 0.0)
    return largest


def check_backend(backend: str, device: str) -> None:
    """Raises:
    UserError: `backend` cannot train on `device`, or is not installed.
    """
    if device == "cpu" and backend not in CPU_BACKENDS:
        raise UserError(
            f"attention `{backend}` cannot train on a CPU", remedy=f"set model.attention to {' or '.join(CPU_BACKENDS)}"
        )
    if backend == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise UserError("flash-attn is not installed", remedy="pip install flash-attn, or set `attention: auto`")


AttentionInterface.register(NAME, attend)
