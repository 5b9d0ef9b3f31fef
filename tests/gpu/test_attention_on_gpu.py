"""Attention kernels that only a GPU runs agree with the plain one, forward and backward."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

BACKENDS = ["varlen", "flex", "padded", *(["flash"] if importlib.util.find_spec("flash_attn") else [])]


def attention(backend: str, dtype_name: str, window: int | None) -> Any:
    import torch

    from trainer.data.pack.batch import _assemble
    from trainer.model.attention.kernels import PackedBatchInfo
    from trainer.model.attention.packed_attention import attend

    generator = torch.Generator().manual_seed(0)
    lengths = [5, 130, 64, 1, 200]
    batch = _assemble(
        [torch.zeros(n).long().numpy() for n in lengths], [torch.ones(n).numpy() for n in lengths], [1.0] * 5
    )
    batch = batch.to(torch.device("cuda"))

    def draw(heads: int) -> torch.Tensor:
        values = torch.randn(1, heads, sum(lengths), 64, generator=generator)
        return values.to("cuda", getattr(torch, dtype_name)).requires_grad_()

    query, key, value = draw(8), draw(2), draw(2)
    module = torch.nn.Identity()
    out, _ = attend(module, query, key, value, None, packed=PackedBatchInfo(backend, batch), sliding_window=window)
    out.float().square().sum().backward()
    return [t.detach().float().cpu() for t in (out, query.grad, key.grad, value.grad) if t is not None]


@pytest.mark.parametrize("window", [None, 48])
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_agree(backend: str, window: int | None) -> None:
    reference = attention("sdpa", "float32", window)
    for found, wanted in zip(attention(backend, "bfloat16", window), reference, strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 0.02
