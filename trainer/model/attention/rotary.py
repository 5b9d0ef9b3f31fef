"""Rotary positions whose frequencies depend on how long a conversation is, told conversation by conversation.

`longrope` and `dynamic` look at the longest position of the whole row: in a pack, one long conversation would stretch
its neighbours' positions, and the loss would depend on how the packs fell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from trainer.data.pack.batch import Batch

_lengths: list[list[int]] = []


@contextlib.contextmanager
def conversations(batch: Batch) -> Iterator[None]:
    """The micro-batch whose positions are computed inside the block."""
    _lengths.append(batch.lengths)
    try:
        yield
    finally:
        _lengths.pop()


def by_conversation(model: nn.Module) -> None:
    """Let every rotary module of `model` that looks at lengths see one conversation at a time."""
    for module in model.modules():
        limit = _original_length(module)
        if limit is not None and "by_conversation" not in module.__dict__:
            module.__dict__["by_conversation"] = True
            module.forward = partial(_forward, module, module.forward, limit)


def _forward(
    module: nn.Module,
    forward: Callable[..., Any],
    limit: int,
    x: Any,
    position_ids: torch.Tensor,
    *more: Any,
    **named: Any,
) -> Any:
    """Positions of all conversations, in one row or in a row each, as of each alone."""
    lengths, width = _lengths[-1] if _lengths else [], position_ids.shape[1]
    in_one_row = sum(lengths) == width and position_ids.shape[0] == 1
    if not in_one_row and max(lengths, default=0) != width:
        return forward(x, position_ids, *more, **named)
    parts = []
    for start, end in _groups(lengths, limit) if in_one_row else ((0, length) for length in lengths):
        _forget(module)
        part = forward(x, position_ids[:1, start:end], *more, **named)
        parts.append((part,) if torch.is_tensor(part) else part)
    joined = [_in_one_row(kind) if in_one_row else _in_rows(kind, width) for kind in zip(*parts, strict=True)]
    return joined[0] if len(joined) == 1 else tuple(joined)


def _in_one_row(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat(parts, dim=1)


def _in_rows(parts: tuple[torch.Tensor, ...], width: int) -> torch.Tensor:
    """[conversations, width, ...]; nothing looks at what fills them up."""
    return torch.cat(
        [torch.cat([part, part[:, :1].expand(-1, width - part.shape[1], *part.shape[2:])], 1) for part in parts]
    )


def _groups(lengths: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Tokens from and to: neighbours within the original length together, longer conversations each alone."""
    start = end = 0
    for length in lengths:
        if length > limit:
            if end > start:
                yield start, end
            yield end, end + length
            start = end + length
        end += length
    if end > start:
        yield start, end


def _original_length(module: nn.Module) -> int | None:
    """Positions before a module's frequencies change; None where they never do."""
    kinds = getattr(module, "rope_type", None)
    kinds = list(kinds.values()) if isinstance(kinds, dict) else [kinds]
    if not any(isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind) for kind in kinds):
        return None
    rope: Any = getattr(module.config, "rope_parameters", None) or {}
    told = [part.get("original_max_position_embeddings") for part in (rope, *rope.values()) if isinstance(part, dict)]
    return int(min([length for length in told if length] or [module.original_max_seq_len]))


def _forget(module: nn.Module) -> None:
    """As before the first forward pass: `dynamic` keeps the frequencies of the longest row that it has seen."""
    for name, original in [*vars(module).items(), *module.named_buffers()]:
        if name.endswith("original_inv_freq") and torch.is_tensor(original):
            current = name.replace("original_inv_freq", "inv_freq")
            now = getattr(module, current)
            module.register_buffer(current, original.to(now.device, copy=True), persistent=False)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
