"""The chunked loss against PyTorch's own, and the router's loss against its definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainer.config import LossConfig
from trainer.data.pack.batch import Batch, _assemble
from trainer.errors import UserError
from trainer.model.loss.cross_entropy import HeadSettings, chunked_cross_entropy, head_settings
from trainer.model.loss.router import balancing_loss, router_settings, weight_of_conversations

POSITIONS, WIDTH, WORDS = 11, 6, 13


def inputs(bias: bool) -> list[Any]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(POSITIONS, WIDTH), torch.randn(WORDS, WIDTH)
    found = [hidden, weight, *([torch.randn(WORDS)] if bias else [])]
    return [tensor.double().float().requires_grad_() for tensor in found]


def reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ids: torch.Tensor,
    weights: torch.Tensor,
    settings: HeadSettings,
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias) * settings.scale
    if settings.softcap:
        logits = settings.softcap * torch.tanh(logits / settings.softcap)
    each = torch.nn.functional.cross_entropy(logits, ids, reduction="none", label_smoothing=settings.label_smoothing)
    return (each * weights).sum()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        HeadSettings(chunk_tokens=100),
        HeadSettings(chunk_tokens=4),
        HeadSettings(chunk_tokens=1, label_smoothing=0.2),
        HeadSettings(chunk_tokens=3, softcap=2.0),
        HeadSettings(chunk_tokens=5, scale=0.25),
        HeadSettings(chunk_tokens=5, scale=3.0, softcap=4.0, label_smoothing=0.1),
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_pytorch(settings: HeadSettings, bias: bool) -> None:
    ids, weights = torch.arange(POSITIONS) % WORDS, torch.linspace(0, 2, POSITIONS)
    ours, theirs = inputs(bias), inputs(bias)
    loss = chunked_cross_entropy(ours[0], ours[1], ours[2] if bias else None, ids, weights, settings)
    wanted = reference(theirs[0], theirs[1], theirs[2] if bias else None, ids, weights, settings)
    (loss * 0.5).backward()
    (wanted * 0.5).backward()
    torch.testing.assert_close(loss, wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_no_supervised_position_is_a_loss_of_zero() -> None:
    hidden, weight = torch.zeros(0, WIDTH, requires_grad=True), torch.randn(WORDS, WIDTH, requires_grad=True)
    loss = chunked_cross_entropy(hidden, weight, None, torch.zeros(0, dtype=torch.long), torch.zeros(0), HeadSettings())
    loss.backward()
    assert float(loss.detach()) == 0
    assert weight.grad is not None and not weight.grad.any()


def config(**values: Any) -> Any:
    text = SimpleNamespace(**values)
    text.get_text_config = lambda: text
    return text


@pytest.mark.parametrize(
    ("values", "softcap", "scale"),
    [
        ({}, None, 1.0),
        ({"final_logit_softcapping": 30.0}, 30.0, 1.0),
        ({"logit_scale": 0.0625}, None, 0.0625),
        ({"logits_scaling": 8.0}, None, 0.125),
        ({"logit_scale": 2.0, "logits_scaling": 4.0, "logits_soft_cap": 5.0}, 5.0, 0.5),
        ({"final_logit_softcapping": None, "logit_scale": None}, None, 1.0),
    ],
)
def test_what_the_configuration_says_of_the_logits(values: dict[str, Any], softcap: float | None, scale: float) -> None:
    found = head_settings(config(**values), LossConfig(chunk_tokens=64, label_smoothing=0.1))
    assert found == HeadSettings(64, 0.1, softcap, scale)


def batch(lengths: list[int]) -> Batch:
    tokens = [np.arange(length, dtype=np.int64) for length in lengths]
    return _assemble(tokens, [np.ones(length, np.uint8) for length in lengths], [1.0 + n for n in range(len(lengths))])


def test_the_routers_loss_of_a_pack_is_that_of_each_conversation_alone() -> None:
    lengths, experts, choices = [3, 5, 2], 4, 2
    torch.manual_seed(1)
    layers = [torch.randn(sum(lengths), experts) for _ in range(3)]
    packed = balancing_loss(tuple(layers), batch(lengths), torch.arange(sum(lengths)), choices)
    start = 0
    for number, length in enumerate(lengths):
        own = torch.cat([layer[start : start + length] for layer in layers]).softmax(-1)
        share = torch.zeros_like(own).scatter_(1, own.topk(choices).indices, 1.0).mean(0)
        torch.testing.assert_close(packed[number], experts * (share * own.mean(0)).sum())
        start += length


def test_a_conversation_weighs_as_much_as_its_supervised_tokens() -> None:
    assert weight_of_conversations(batch([3, 5, 2])).tolist() == [2 * 1.0, 4 * 2.0, 1 * 3.0]


ROUTED = {"output_router_logits": True, "router_aux_loss_coef": 0.01, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("values", "loss", "found"),
    [
        (ROUTED, {}, (0.01, 2)),
        ({**ROUTED, "output_router_logits": False}, {}, None),
        ({**ROUTED, "output_router_logits": False}, {"output_router_logits": True}, (0.01, 2)),
        (ROUTED, {"output_router_logits": False}, None),
        (ROUTED, {"router_aux_loss_coef": 0.5}, (0.5, 2)),
        (ROUTED, {"router_aux_loss_coef": 0.0}, None),
        ({"output_router_logits": True}, {}, None),
        ({}, {}, None),
    ],
)
def test_whether_the_routers_loss_counts(
    values: dict[str, Any], loss: dict[str, Any], found: tuple[float, int] | None
) -> None:
    settings = router_settings(SimpleNamespace(config=config(**values)), LossConfig(**loss))
    assert (None if settings is None else (settings.coefficient, settings.choices)) == found


def test_a_model_without_a_router_is_refused_where_one_is_asked_for() -> None:
    with pytest.raises(UserError, match="has no router"):
        router_settings(SimpleNamespace(config=config()), LossConfig(output_router_logits=True))
