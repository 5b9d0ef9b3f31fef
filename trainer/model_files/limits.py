"""What a model's configuration bounds: token ids by its embedding, lengths by its positions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from trainer.config import ModelConfig
from trainer.model_files.headers import config_file

POSITION_TABLES = (
    *("gpt2", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "openai-gpt", "opt", "biogpt", "ctrl", "imagegpt"),
    *("mpt", "megatron-bert", "bert", "roberta", "bart", "trocr", "cpmant"),
)
"""Model types that hold a table of positions: beyond its end they break, or read another row's memory."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True)
class Limits:
    """Attributes:
    vocabulary: rows of the embedding; None where that is not known.
    positions: of a table of positions; None where the model computes them.
    trained_positions: longest conversation of the model's own training, where positions are computed.
    """

    vocabulary: int | None = None
    positions: int | None = None
    trained_positions: int | None = None


def limits_of(model: ModelConfig, added_ids: list[int]) -> Limits:
    """Limits that the model's config.json names; none where it is not on this machine.

    Args:
        added_ids: of `model.added_tokens`; the embedding grows by them.
    """
    file = config_file(model)
    if file is None:
        return Limits()
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Limits()
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    longest = next((config[key] for key in POSITIONS if isinstance(config.get(key), int)), None)
    vocabulary = config.get("vocab_size")
    table = config.get("model_type") in POSITION_TABLES
    return Limits(
        vocabulary=max([vocabulary, *(i + 1 for i in added_ids)]) if isinstance(vocabulary, int) else None,
        positions=longest if table else None,
        trained_positions=None if table else longest,
    )
