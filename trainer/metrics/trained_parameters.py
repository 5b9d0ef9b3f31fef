"""How many parameters train, by kind, beside what the plan counted: its memory and checkpoints rest on that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from trainer.model.supervised import trainable_parameters
from trainer.runtime.files import read_json

AGREES = 0.01
"""Difference from the plan's count below which sizes are right all the same."""


def trained_counts(model: nn.Module) -> dict[str, int]:
    """Trained parameters by kind: `adapters`, `biases` and `whole_modules` beside them, `weights` of a full fine-tune.

    Args:
        model: before an engine splits it.
    """
    found: dict[str, int] = {}
    parameters = list(trainable_parameters(model))
    has_adapters = any(".lora_" in name for name, _ in parameters)
    for name, parameter in parameters:
        kind = _kind(name) if has_adapters else "weights"
        found[kind] = found.get(kind, 0) + parameter.numel()
    return found


def _kind(name: str) -> str:
    if ".lora_" in name:
        return "adapters"
    if ".modules_to_save." in name:
        return "whole_modules"
    return "biases" if name.endswith("bias") else "weights"


def counts_in_words(counts: dict[str, int]) -> str:
    """A line for the log."""
    parts = ", ".join(f"{number:,} in {kind.replace('_', ' ')}" for kind, number in counts.items())
    return f"{sum(counts.values()):,} parameters train: {parts}"


def differs_from_plan(run_dir: Path, counts: dict[str, int]) -> str:
    """What is wrong with the plan's count of trained parameters; empty where it agrees, or nobody counted."""
    plan: dict[str, Any] = read_json(run_dir / "plan.json") or {}
    planned = (plan.get("prediction") or {}).get("trainable_parameters")
    trained = sum(counts.values())
    if not planned or abs(trained - planned) <= AGREES * planned:
        return ""
    more = "more" if trained > planned else "less"
    return (
        f"{trained:,} parameters train and the plan counted {planned:,}: "
        f"memory and checkpoints take {more} than it says; look at the modules that got adapters"
    )
