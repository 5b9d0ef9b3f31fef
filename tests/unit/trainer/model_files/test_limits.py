"""What a model's configuration bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import ModelConfig
from trainer.model_files.limits import Limits, limits_of


@pytest.mark.parametrize(
    ("config", "added", "limits"),
    [
        ({"model_type": "llama", "vocab_size": 100, "max_position_embeddings": 64}, [], Limits(100, None, 64)),
        ({"model_type": "gpt2", "vocab_size": 100, "n_positions": 64}, [], Limits(100, 64, None)),
        ({"model_type": "mpt", "vocab_size": 100, "max_seq_len": 64}, [], Limits(100, 64, None)),
        ({"model_type": "llama", "vocab_size": 100}, [99, 101], Limits(102, None, None)),
        ({"model_type": "llama", "vocab_size": 100}, [90], Limits(100, None, None)),
        (
            {"model_type": "gemma3", "text_config": {"vocab_size": 7, "max_position_embeddings": 9}},
            [],
            Limits(7, None, 9),
        ),
        ({"model_type": "llama", "vocab_size": "many", "max_position_embeddings": None}, [], Limits()),
        ({}, [5], Limits()),
    ],
)
def test_limits(tmp_path: Path, config: dict[str, Any], added: list[int], limits: Limits) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert limits_of(ModelConfig(path=str(tmp_path)), added) == limits


@pytest.mark.parametrize("content", [None, "", "{"])
def test_nothing_is_known_without_a_readable_configuration(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert limits_of(ModelConfig(path=str(tmp_path)), []) == Limits()
