"""Weighted cross-entropy from hidden states, without ever holding the logits of more than one chunk.

Unsupervised positions are left out before the vocabulary matrix is touched. Gradients are formed in the forward pass,
chunk by chunk, so the backward pass only scales them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from trainer.config import LossConfig


@dataclass(frozen=True)
class HeadSettings:
    """How a model turns hidden states into logits, and how the loss reads them.

    Attributes:
        chunk_tokens: positions whose logits exist at one time.
        label_smoothing: share of probability spread evenly over the vocabulary.
        softcap: bound of logits through tanh (Gemma 2, RecurrentGemma), or None.
        scale: factor on the logits (Cohere, Granite, Falcon-H1).
    """

    chunk_tokens: int = 1024
    label_smoothing: float = 0.0
    softcap: float | None = None
    scale: float = 1.0


FACTORS, DIVISORS = ("logit_scale", "lm_head_multiplier", "output_multiplier"), ("logits_scaling",)
BOUNDS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What architectures call the settings of `HeadSettings`; the tiny twin tells whether one has another."""


def head_settings(config: Any, loss: LossConfig) -> HeadSettings:
    """How a model's logits come about, by its configuration."""
    config, scale = config.get_text_config(), 1.0
    for name in FACTORS:
        scale *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    bound = next((value for name in BOUNDS if (value := getattr(config, name, None))), None)
    return HeadSettings(loss.chunk_tokens, loss.label_smoothing, bound, float(scale))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target_ids: torch.Tensor,
        target_weights: torch.Tensor,
        settings: HeadSettings,
    ) -> torch.Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need_bias else None
        for start in range(0, len(hidden), settings.chunk_tokens):
            part = slice(start, start + settings.chunk_tokens)
            chunk = hidden[part]
            logits = _logits(chunk, weight, bias, settings)
            loss, grad = _loss_and_grad(logits, target_ids[part], target_weights[part], settings)
            total += loss
            grad = grad.to(chunk.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight.add_(torch.mm(grad.T, chunk)) if grad_weight.dtype != chunk.dtype else (
                    grad_weight.addmm_(grad.T, chunk)
                )
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, bias.dtype if bias is not None else None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> Any:
        grad_hidden, grad_weight, grad_bias = ctx.grads
        del ctx.grads
        hidden = grad_hidden.mul_(grad_output) if grad_hidden is not None else None
        weight = grad_weight.mul_(grad_output).to(ctx.dtypes[0]) if grad_weight is not None else None
        bias = grad_bias.mul_(grad_output).to(ctx.dtypes[1]) if grad_bias is not None else None
        return hidden, weight, bias, None, None, None


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, settings: HeadSettings
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if settings.scale != 1.0:
        logits = logits * settings.scale
    return logits if settings.softcap is None else settings.softcap * torch.tanh(logits / settings.softcap)


def _loss_and_grad(
    logits: torch.Tensor, target_ids: torch.Tensor, weights: torch.Tensor, settings: HeadSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the loss, and its gradient with respect to the bare product of hidden states and weights."""
    smoothing = settings.label_smoothing
    normaliser = logits.logsumexp(-1)
    picked = logits.gather(1, target_ids[:, None])[:, 0]
    loss = normaliser - (1 - smoothing) * picked
    if smoothing:
        loss = loss - smoothing * logits.mean(-1)
    grad = (logits - normaliser[:, None]).exp_()
    grad.scatter_add_(1, target_ids[:, None], grad.new_full((len(grad), 1), smoothing - 1))
    if smoothing:
        grad -= smoothing / logits.shape[1]
    grad *= weights[:, None] * settings.scale
    if settings.softcap is not None:
        grad *= 1 - (logits / settings.softcap) ** 2
    return (loss * weights).sum(), grad


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    target_ids: torch.Tensor,
    target_weights: torch.Tensor,
    settings: HeadSettings,
) -> torch.Tensor:
    """Sum over positions of weight times cross-entropy, float32 scalar.

    Args:
        hidden: [M, hidden_size], the supervised positions only; M may be 0.
        weight: [vocabulary, hidden_size]; bias: [vocabulary] or None.
        target_ids: int64 [M]; target_weights: float32 [M].
    """
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, target_ids, target_weights, settings)
    return loss


def install_loss_head(head: nn.Linear, settings: HeadSettings) -> None:
    """Make `head(hidden, target_ids, target_weights, settings=None)` return the loss in place of logits.

    The work happens inside the module's own call, so that engines which gather parameters around calls see it.
    """

    def forward(
        hidden: torch.Tensor, target_ids: torch.Tensor, weights: torch.Tensor, plain: bool = False
    ) -> torch.Tensor:
        chosen = HeadSettings(settings.chunk_tokens, 0.0, settings.softcap, settings.scale) if plain else settings
        hidden = hidden.to(head.weight.dtype)  # residuals of state spaces are kept in float32
        return chunked_cross_entropy(hidden, head.weight, head.bias, target_ids, weights, chosen)

    head.forward = forward  # type: ignore[method-assign,assignment]
