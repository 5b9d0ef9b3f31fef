"""Causal attention within segments of one flat row, behind one function that Transformers models call.

Registered with Transformers as `tuneyard`; the backend is chosen per batch object. Whichever runs, a token sees the
earlier tokens of its own segment and nothing else.

| backend | runs | how |
|---|---|---|
| flash | CUDA, flash-attn installed | FlashAttention's variable-length kernel |
| varlen | CUDA | PyTorch's own variable-length kernel |
| flex | CUDA compiled; CPU forward only | FlexAttention with a block mask |
| sdpa | anywhere | one dense block-diagonal mask |
| padded | anywhere | segments padded to one length; causal order alone hides the padding |
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from trainer.data.batch import Batch
from trainer.errors import UserError

NAME = "tuneyard"
CPU_BACKENDS = ("padded", "sdpa")
Kernel = Callable[..., torch.Tensor]


@dataclass
class Segments:
    """What attention needs to know of a micro-batch; masks are built once and shared by all layers."""

    backend: str
    batch: Batch
    masks: dict[Any, Any] = field(default_factory=dict)

    def mask(self, key: Any, build: Callable[[], Any]) -> Any:
        if key not in self.masks:
            self.masks[key] = build()
        return self.masks[key]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over one flat row.

    Args:
        query: [1, heads, T, head_dim]; key, value: [1, kv_heads, T, head_dim].
        segments: the micro-batch; models that do not hand it on cannot be packed.

    Returns:
        [1, T, heads, head_dim], and no attention weights.

    Raises:
        UserError: the model asks for something that the backend cannot do.
    """
    if segments is None:
        raise UserError(
            f"{type(module).__name__} does not pass packing information to its attention",
            remedy="set `data.packing: false`, or use a model whose layers accept attention keyword arguments",
        )
    unsupported = [("attention dropout", dropout), ("attention sinks", s_aux is not None)]
    if softcap and segments.backend in ("varlen", "padded", "sdpa"):
        unsupported.append((f"soft-capped scores with attention `{segments.backend}`", softcap))
    for what, asked in unsupported:
        if asked:
            raise UserError(f"this model uses {what}, which is not supported", remedy="try `attention: flex`")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return KERNELS[segments.backend](query, key, value, segments, scale, sliding_window, softcap), None


def check_backend(backend: str, device: str) -> None:
    """Raises:
    UserError: `backend` cannot train on `device`, or is not installed.
    """
    if device == "cpu" and backend not in CPU_BACKENDS:
        raise UserError(
            f"attention `{backend}` cannot train on a CPU", remedy=f"set model.attention to {' or '.join(CPU_BACKENDS)}"
        )
    if backend == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise UserError("flash-attn is not installed", remedy="pip install flash-attn, or `attention: varlen`")


def _flash(q: Any, k: Any, v: Any, segments: Segments, scale: float, window: int | None, softcap: Any) -> Any:
    from flash_attn import flash_attn_varlen_func

    batch = segments.batch
    lengths = (batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
    left = -1 if window is None else window - 1
    out = flash_attn_varlen_func(
        q, k, v, *lengths, softmax_scale=scale, causal=True, window_size=(left, 0), softcap=softcap or 0.0
    )
    return out[None]


def _varlen(q: Any, k: Any, v: Any, segments: Segments, scale: float, window: int | None, _: Any) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    batch = segments.batch
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
    options: dict[str, Any] = {"scale": scale}
    known = _parameters(varlen_attn)
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise UserError("this torch has no sliding window in varlen attention", remedy="set `attention: flex`")
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    lengths = (batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    out: Any = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), *lengths, **options)
    return out[None]


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _flex(q: Any, k: Any, v: Any, segments: Segments, scale: float, window: int | None, softcap: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    total = q.shape[2]

    def build() -> Any:
        document = _document(segments.batch)

        def visible(b: Any, h: Any, row: Any, column: Any) -> Any:
            same = (document[row] == document[column]) & (row >= column)
            return same if window is None else same & (row - column < window)

        return create_block_mask(visible, None, None, total, total, device=q.device)

    def capped(score: Any, b: Any, h: Any, row: Any, column: Any) -> Any:
        return softcap * torch.tanh(score / softcap)

    out = _flex_function(q.device.type)(
        q,
        k,
        v,
        score_mod=capped if softcap else None,
        block_mask=segments.mask(("flex", window), build),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2)


@cache
def _flex_function(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention


def _sdpa(q: Any, k: Any, v: Any, segments: Segments, scale: float, window: int | None, _: Any) -> Any:
    def build() -> torch.Tensor:
        document = _document(segments.batch)
        places = torch.arange(len(document), device=document.device)
        distance = places[:, None] - places[None]
        same = (document[:, None] == document[None]) & (distance >= 0)
        return same if window is None else same & (distance < window)

    mask = segments.mask(("sdpa", window), build)
    gqa = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)
    return out.transpose(1, 2)


def _padded(q: Any, k: Any, v: Any, segments: Segments, scale: float, window: int | None, _: Any) -> Any:
    index = segments.batch.padded_index
    count, width = index.shape
    flat = index.reshape(-1)

    def spread(t: torch.Tensor) -> torch.Tensor:
        return t[0].index_select(1, flat).unflatten(1, (count, width)).transpose(0, 1)

    q, k, v = spread(q), spread(k), spread(v)
    options: dict[str, Any] = {"is_causal": True}
    if window is not None and window < width:

        def build() -> torch.Tensor:
            places = torch.arange(width, device=q.device)
            distance = places[:, None] - places[None]
            return (distance >= 0) & (distance < window)

        options = {"attn_mask": segments.mask(("padded", window), build)}
    gqa = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=gqa, **options)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, segments.batch.restore_index)[None]


def _document(batch: Batch) -> torch.Tensor:
    """Segment number of every token, int64 [T]."""
    total = batch.input_ids.shape[1]
    places = torch.arange(total, device=batch.cu_seqlens.device, dtype=torch.int32)
    return torch.searchsorted(batch.cu_seqlens, places, right=True)


KERNELS: dict[str, Kernel] = {"flash": _flash, "varlen": _varlen, "flex": _flex, "sdpa": _sdpa, "padded": _padded}
AttentionInterface.register(NAME, attend)
