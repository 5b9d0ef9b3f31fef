"""Looks at a model before it trains: are its weights there, and how must it be run?"""

from __future__ import annotations

from typing import Any

from trainer.config import ModelConfig
from trainer.model.inspection import recall, remember
from trainer.model.weights import checked_headers


def examine(model: ModelConfig) -> dict[str, Any]:
    """What is known of a model, or can be found out; it is remembered.

    Raises:
        UserError: it cannot be trained.
    """
    found = recall(model)
    if found is None:
        found = {"weights": checked_headers(model)}
        remember(model, found)
    return found
