"""Causal attention within segments of one flat row, behind one function that Transformers models call.

Registered with Transformers as `tuneyard`; the backend is chosen per micro-batch. Whichever runs, a token sees the
earlier tokens of its own segment and nothing else.

| backend | runs | how |
|---|---|---|
| flash | CUDA, flash-attn installed | FlashAttention's variable-length kernel |
| varlen | CUDA | PyTorch's own variable-length kernel |
| flex | CUDA compiled; CPU forward only | FlexAttention with a block mask |
| sdpa | anywhere | one dense block-diagonal mask |
| padded | anywhere | segments padded to one length; causal order alone hides the padding |
| own | anywhere | the model's own attention, over segments as padded rows: this function is not called |

Which of them a model and a device can use, `trainer.capabilities` says.
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
from torch import nn
from transformers import AttentionInterface

from trainer.capabilities import CPU_BACKENDS, lacking
from trainer.data.pack.batch import Batch
from trainer.errors import UserError

NAME = "tuneyard"
DROPOUTS = ("attention_dropout", "attn_dropout", "attn_pdrop", "dropout_p")
"""Attributes by which attention modules call the dropout of their scores."""
USE_FLEX = "set `model.attention: flex`"


@dataclass
class Segments:
    """What attention needs to know of a micro-batch; masks are built once and shared by all layers.

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


Kernel = Callable[[Any, Any, Any, Segments, Scoring], torch.Tensor]

_current: list[Segments] = []


def announce(segments: Segments) -> None:
    """The micro-batch that layers are about to see, in forward pass and recomputation, until the next is announced.

    Not every architecture hands arguments on from its decoder to its attention.
    """
    _current[:] = [segments]


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
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over one flat row.

    Args:
        query: [1, heads, T, head_dim]; key: [1, kv_heads, T, head_dim]; value: [1, kv_heads, T, value_dim].
        segments: the micro-batch; by default the one that was announced.

    Returns:
        [1, T, heads, value_dim], and no attention weights.
    """
    segments = segments or _current[0]
    segments.reached = True
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = Scoring(scale, sliding_window, softcap or None, s_aux)
    segments.asked.update(scoring.extras)
    if lacks := lacking(segments.backend, scoring.extras):  # families that the table does not name
        raise UserError(f"attention `{segments.backend}` has no {lacks}, which this model has", remedy=USE_FLEX)
    return KERNELS[segments.backend](query, key, value, segments, scoring).contiguous(), None


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


def _flash(q: Any, k: Any, v: Any, segments: Segments, scoring: Scoring) -> Any:
    from flash_attn import flash_attn_varlen_func

    batch, width = segments.batch, v.shape[-1]
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


def _varlen(q: Any, k: Any, v: Any, segments: Segments, scoring: Scoring) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    batch, width, window = segments.batch, v.shape[-1], scoring.window
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


def _flex(q: Any, k: Any, v: Any, segments: Segments, scoring: Scoring) -> Any:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask

    total, window, softcap = q.shape[2], scoring.window, scoring.softcap

    def build() -> Any:
        document = _document(segments.batch)

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
        block_mask=segments.mask(("flex", window), build),
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


def _sdpa(q: Any, k: Any, v: Any, segments: Segments, scoring: Scoring) -> Any:
    def build() -> torch.Tensor:
        document = _document(segments.batch)
        return (document[:, None] == document[None]) & _seen(len(document), document.device, scoring.window)

    mask = segments.mask(("sdpa", scoring.window), build)
    return _dense(q, k, v, scoring, mask).transpose(1, 2)


def _padded(q: Any, k: Any, v: Any, segments: Segments, scoring: Scoring) -> Any:
    index, window = segments.batch.padded_index, scoring.window
    count, width = index.shape
    flat = index.reshape(-1)

    def spread(t: torch.Tensor) -> torch.Tensor:
        return t[0].index_select(1, flat).unflatten(1, (count, width)).transpose(0, 1)

    q, k, v = spread(q), spread(k), spread(v)
    mask = None
    if not scoring.is_plain or (window is not None and window < width):
        mask = segments.mask(("padded", window), lambda: _seen(width, q.device, window))
    out = _dense(q, k, v, scoring, mask)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, segments.batch.restore_index)[None]


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
    return weights.to(v.dtype) @ v


def _document(batch: Batch) -> torch.Tensor:
    """Segment number of every token, int64 [T]."""
    total = batch.input_ids.shape[1]
    places = torch.arange(total, device=batch.cu_seqlens.device, dtype=torch.int32)
    return torch.searchsorted(batch.cu_seqlens, places, right=True)


KERNELS: dict[str, Kernel] = {"flash": _flash, "varlen": _varlen, "flex": _flex, "sdpa": _sdpa, "padded": _padded}
AttentionInterface.register(NAME, attend)
