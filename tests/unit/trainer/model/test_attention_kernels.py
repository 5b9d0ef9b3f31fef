"""Kernels for packed rows against attention that is written out for each conversation alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.data.pack.batch import Batch, _assemble
from trainer.errors import UserError
from trainer.model.attention.kernels import PackedBatchInfo
from trainer.model.attention.packed_attention import attend, check_backend, silence_dropout

LENGTHS = [5, 1, 7]


def batch() -> Batch:
    tokens = [np.zeros(length, np.int64) for length in LENGTHS]
    return _assemble(tokens, [np.ones(length, np.uint8) for length in LENGTHS], [1.0] * len(LENGTHS))


def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, softcap: float | None) -> torch.Tensor:
    """[heads, L, size] of one conversation, place by place."""
    out = torch.zeros(*q.shape[:2], v.shape[-1])
    for head in range(q.shape[0]):
        shared = head * k.shape[0] // q.shape[0]
        for place in range(q.shape[1]):
            first = 0 if window is None else max(0, place - window + 1)
            scores = k[shared, first : place + 1] @ q[head, place] / math.sqrt(q.shape[-1])
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            out[head, place] = scores.softmax(0) @ v[shared, first : place + 1]
    return out


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["every head its own", "grouped"])
@pytest.mark.parametrize("backend", ["sdpa", "padded"])
def test_a_token_sees_its_own_conversation_and_nothing_else(
    backend: str, heads: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, count, sum(LENGTHS), 8) for count in (heads[0], heads[1], heads[1]))
    out, weights = attend(
        torch.nn.Identity(), q, k, v, packed=PackedBatchInfo(backend, batch()), sliding_window=window, softcap=softcap
    )
    assert weights is None
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        wanted = alone(q[0, :, part], k[0, :, part], v[0, :, part], window, softcap)
        torch.testing.assert_close(out[0, part].transpose(0, 1), wanted)
        start += length


def test_masks_are_built_once_for_all_layers() -> None:
    packed, heads = PackedBatchInfo("sdpa", batch()), torch.zeros(1, 2, sum(LENGTHS), 8)
    for window in (None, 3, None, 3):
        attend(torch.nn.Identity(), heads, heads, heads, packed=packed, sliding_window=window)
    assert len(packed.masks) == 2
    assert packed.reached


@pytest.mark.parametrize(
    ("backend", "device", "refused"),
    [("sdpa", "cpu", False), ("padded", "cpu", False), ("flash", "cpu", True), ("varlen", "cpu", True)],
)
def test_kernels_that_cannot_train_on_a_cpu_are_refused(backend: str, device: str, refused: bool) -> None:
    if not refused:
        check_backend(backend, device)
        return
    with pytest.raises(UserError, match="cannot train on a CPU"):
        check_backend(backend, device)


def test_dropout_of_scores_is_turned_off_and_told() -> None:
    model = torch.nn.Module()
    model.layer = torch.nn.Module()
    model.layer.attention_dropout, model.layer.attn_dropout = 0.1, torch.nn.Dropout(0.3)
    model.resid_dropout = torch.nn.Dropout(0.5)
    assert silence_dropout(model) == 0.3
    assert (model.layer.attention_dropout, model.layer.attn_dropout.p, model.resid_dropout.p) == (0.0, 0.0, 0.5)
    assert silence_dropout(model) == 0.0
