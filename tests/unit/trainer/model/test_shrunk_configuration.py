"""A configuration made tiny keeps its class, its switches and the pattern of its layers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from trainer.model.inspection.shrink import HEADS, ORIGINAL, WIDTH, WINDOW, WORDS, shrunk


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
        ("qwen2", {"use_sliding_window": False}),
        ("gemma2", {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}),
        ("mixtral", {"output_router_logits": True}),
        ("granite", {"logits_scaling": 8.0, "residual_multiplier": 0.22}),
    ],
)
def test_widths_shrink_and_switches_stay(family: str, values: dict[str, Any]) -> None:
    config = AutoConfig.for_model(family, **values)
    small = shrunk(config)
    assert type(small) is type(config)
    assert (small.hidden_size, small.vocab_size, small.num_attention_heads) == (WIDTH, WORDS, HEADS)
    assert small.num_hidden_layers < config.num_hidden_layers
    assert {name: getattr(small, name) for name in values} == values


def test_every_kind_of_layer_is_kept() -> None:
    kinds = ["sliding_attention", "full_attention"] * 13
    small = shrunk(AutoConfig.for_model("gemma2", num_hidden_layers=26, layer_types=kinds))
    assert set(small.layer_types) == set(kinds)
    assert len(small.layer_types) == small.num_hidden_layers
    assert small.sliding_window == WINDOW


def test_lengths_shrink_together_so_that_a_few_tokens_reach_beyond_them() -> None:
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 48,
        "long_factor": [4.0] * 48,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
    }
    config = AutoConfig.for_model("phi3", rope_parameters=scaling, max_position_embeddings=131072, pad_token_id=0)
    small = shrunk(config)
    parameters = small.rope_parameters
    assert parameters["original_max_position_embeddings"] == ORIGINAL
    assert set(parameters["long_factor"]) == {4.0}
    head = small.hidden_size // small.num_attention_heads
    assert len(parameters["long_factor"]) == head // 2


def test_without_narrowing_only_layers_and_words_go() -> None:
    config = AutoConfig.for_model("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=12)
    small = shrunk(config, narrow=False)
    assert (small.hidden_size, small.intermediate_size) == (128, 256)
    assert small.num_hidden_layers < 12
