"""The attention kernels that packed rows can run on, behind one signature.

A kernel takes query [1, heads, T, head_dim], key [1, kv_heads, T, head_dim] and value [1, kv_heads, T, value_dim] of
one flat row and returns [1, T, heads, value_dim]. Whichever runs, a token sees the earlier tokens of its own
conversation (within the layer's window) and nothing else.

| kernel | runs on | how |
|---|---|---|
| flash | CUDA, flash-attn installed | FlashAttention's variable-length kernel |
| varlen | CUDA | PyTorch's own variable-length kernel |
| flex | CUDA compiled; CPU forward only | FlexAttention with a block mask |
| sdpa | anywhere | one dense block-diagonal mask |
| padded | anywhere | conversations padded to one length; causal order alone hides the padding |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from trainer.data.pack.batch import Batch
from trainer.errors import UserError

USE_FLEX = "set `model.attention: flex`"


@dataclass
class PackedBatchInfo:
    """What kernels need to know of a packed micro-batch; masks are built once and shared by all layers.

    Attributes:
        backend: which kernel runs.
        batch: the micro-batch.
        reached: whether a layer has asked for attention.
        asked: what layers ask of their scores that not every kernel has: `softcap`, `sinks`.
    """

    backend: str
    batch: Batch
    reached: bool = False
    asked: set[str] = field(default_factory=set)
    masks: dict[Any, Any] = field(default_factory=dict)

    def mask(self, key: Any, build: Callable[[], Any]) -> Any:
        if key not in self.masks:
            self.masks[key] = build()
        return self.masks[key]


@dataclass(frozen=True)
class Scoring:
    """What a layer does with its scores.

    Attributes:
        scale: factor on products of queries and keys.
        window: tokens that one sees, itself included; None is all.
        softcap: bound of the scores through tanh (Gemma 2), or None.
        sinks: [heads], the score of a place that takes probability and gives nothing (gpt-oss), or None.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the softmax that every kernel has."""
        return not self.extras

    @property
    def extras(self) -> list[str]:
        """What it has beyond that."""
        return [name for name in ("softcap", "sinks") if getattr(self, name) is not None]


Kernel = Callable[[Any, Any, Any, PackedBatchInfo, Scoring], torch.Tensor]


def _flash(q: Any, k: Any, v: Any, packed: PackedBatchInfo, scoring: Scoring) -> Any:
    from flash_attn import flash_attn_varlen_func

    batch, width = packed.batch, v.shape[-1]
    lengths = (batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    q, k, v = (t[0].transpose(0, 1) for t in _of_one_size(q, k, v))
    left = -1 if scoring.window is None else scoring.window - 1
    out = flash_attn_varlen_func(
        q,
        k,
        v,
        *lengths,
        softmax_scale=scoring.scale,
        causal=True,
        window_size=(left, 0),
        softcap=scoring.softcap or 0.0,
    )
    return out[None, ..., :width]


def _of_one_size(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, multiple: int = 1) -> list[torch.Tensor]:
    """Heads filled up with zeros to one size: neither scores nor the first part of the output change."""
    size = -(-max(q.shape[-1], v.shape[-1]) // multiple) * multiple
    return [t if t.shape[-1] == size else F.pad(t, (0, size - t.shape[-1])) for t in (q, k, v)]


def _varlen(q: Any, k: Any, v: Any, packed: PackedBatchInfo, scoring: Scoring) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    batch, width, window = packed.batch, v.shape[-1], scoring.window
    q, k, v = (t[0].transpose(0, 1) for t in _of_one_size(q, k, v, multiple=8))
    options: dict[str, Any] = {"scale": scoring.scale}
    known = _parameters(varlen_attn)
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise UserError("this torch has no sliding window in varlen attention", remedy=USE_FLEX)
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    lengths = (batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    out: Any = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), *lengths, **options)
    return out[None, ..., :width]


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _flex(q: Any, k: Any, v: Any, packed: PackedBatchInfo, scoring: Scoring) -> Any:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask

    total, window, softcap = q.shape[2], scoring.window, scoring.softcap

    def build() -> Any:
        document = _document(packed.batch)

        def visible(b: Any, h: Any, row: Any, column: Any) -> Any:
            same = (document[row] == document[column]) & (row >= column)
            return same if window is None else same & (row - column < window)

        return create_block_mask(visible, None, None, total, total, device=q.device)

    def capped(score: Any, b: Any, h: Any, row: Any, column: Any) -> Any:
        return softcap * torch.tanh(score / softcap)  # type: ignore[operator]  # only called where there is one

    out = _flex_function(q.device.type)(
        q,
        k,
        v,
        score_mod=capped if softcap else None,
        block_mask=packed.mask(("flex", window), build),
        scale=scoring.scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=None if scoring.sinks is None else AuxRequest(lse=True),
    )
    if scoring.sinks is not None:  # a sink adds exp(sink) to the denominator of every row of its head
        out, aux = out
        kept = torch.sigmoid(aux.lse - scoring.sinks.float().reshape(1, -1, 1))
        out = out * kept[..., None].to(out.dtype)
    return out.transpose(1, 2)


@cache
def _flex_function(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention


def _sdpa(q: Any, k: Any, v: Any, packed: PackedBatchInfo, scoring: Scoring) -> Any:
    def build() -> torch.Tensor:
        document = _document(packed.batch)
        return (document[:, None] == document[None]) & _seen(len(document), document.device, scoring.window)

    mask = packed.mask(("sdpa", scoring.window), build)
    return _dense(q, k, v, scoring, mask).transpose(1, 2)


def _padded(q: Any, k: Any, v: Any, packed: PackedBatchInfo, scoring: Scoring) -> Any:
    index, window = packed.batch.padded_index, scoring.window
    count, width = index.shape
    flat = index.reshape(-1)

    def spread(t: torch.Tensor) -> torch.Tensor:
        spread_out: torch.Tensor = t[0].index_select(1, flat).unflatten(1, (count, width)).transpose(0, 1)
        return spread_out

    q, k, v = spread(q), spread(k), spread(v)
    mask = None
    if not scoring.is_plain or (window is not None and window < width):
        mask = packed.mask(("padded", window), lambda: _seen(width, q.device, window))
    out = _dense(q, k, v, scoring, mask)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, packed.batch.restore_index)[None]


def _seen(length: int, device: torch.device, window: int | None) -> torch.Tensor:
    """[length, length], which earlier places a place of one segment sees."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _dense(q: Any, k: Any, v: Any, scoring: Scoring, mask: torch.Tensor | None) -> torch.Tensor:
    """[B, heads, L, value_dim] of [B, heads, L, head_dim], causal where there is no mask."""
    if scoring.is_plain:
        options: dict[str, Any] = {"is_causal": True} if mask is None else {"attn_mask": mask}
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, scale=scoring.scale, enable_gqa=gqa, **options)
    assert mask is not None
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)).float() * scoring.scale
    if scoring.softcap:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if scoring.sinks is not None:
        sink = scoring.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(-1)[..., : k.shape[2]]
    out: torch.Tensor = weights.to(v.dtype) @ v
    return out


def _document(batch: Batch) -> torch.Tensor:
    """Segment number of every token, int64 [T]."""
    total = batch.input_ids.shape[1]
    places = torch.arange(total, device=batch.cu_seqlens.device, dtype=torch.int32)
    return torch.searchsorted(batch.cu_seqlens, places, right=True)


KERNELS: dict[str, Kernel] = {"flash": _flash, "varlen": _varlen, "flex": _flex, "sdpa": _sdpa, "padded": _padded}
