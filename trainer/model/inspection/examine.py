"""Looks at a model before it trains: are its weights there, and how must it be run?"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from trainer.config import ModelConfig
from trainer.errors import UserError
from trainer.model.adapters.quantise import refuse_quantised_checkpoint
from trainer.model.inspection.twin import Verdict, verdict_of
from trainer.model.loading.weights import checked_headers
from trainer.model_files.inspection_cache import REFUSED, architecture_key, recall, remember, weights_key

_found: dict[str, dict[str, Any]] = {}
"""Verdicts of this process, where nothing can be kept on a disk."""


def examine(model: ModelConfig) -> dict[str, Any]:
    """What is known of a model, or can be found out: {"weights": its tensors, "verdict": how it is run}.

    Raises:
        UserError: it cannot be trained.
    """
    key = weights_key(model)
    weights = recall(key)
    if weights is None:
        refuse_quantised_checkpoint(model.path, _configuration(model))  # their tensors have other names and shapes
        weights = checked_headers(model)
        remember(key, weights)
    return {"weights": weights, "verdict": how_to_run(model).as_json()}


def how_to_run(model: ModelConfig) -> Verdict:
    """The verdict of the model's tiny twin.

    Raises:
        UserError: it cannot be run as Transformers runs it.
    """
    key = architecture_key(model)
    known = _found.get(key or "") or recall(key)
    if known is None:
        known = verdict_of(_configuration(model), model.trust_remote_code).as_json()
        remember(key, known)
    if key is not None:
        _found[key] = known
    found = Verdict(**known)
    if found.how == REFUSED:
        raise UserError(
            f"this model cannot be trained here: {found.reason}",
            where=model.path,
            remedy="docs/architectures.md lists the architectures that can; with another release of Transformers, "
            "or another model of the family, it may be otherwise",
        )
    return found


def _configuration(model: ModelConfig) -> Any:
    try:
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the model could not be loaded from {model.path}: {error}",
            remedy="`model.path` needs config.json and safetensors weights of a causal language model",
        ) from error
