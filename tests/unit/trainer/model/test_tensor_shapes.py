"""Tensors of a model, counted without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from trainer.errors import UserError
from trainer.model.inspection.tensor_shapes import tensors_of


def write(folder: Path, **values: object) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", **{**sizes, "num_key_value_heads": 2, "vocab_size": 50, **values})
    (folder / "config.json").write_text(config.to_json_string())


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_counts_once(tmp_path: Path, tied: bool) -> None:
    write(tmp_path, tie_word_embeddings=tied)
    found = tensors_of(tmp_path)
    assert ("lm_head.weight" in found["tensors"]) is not tied
    assert found["tensors"]["model.layers.1.self_attn.k_proj.weight"] == [8, 16]
    assert sum(name.endswith("down_proj") for name in found["linears"]) == 2


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none such"}))
    with pytest.raises(UserError, match="does not know it"):
        tensors_of(tmp_path)


def test_a_configuration_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    broken = {**json.loads((tmp_path / "config.json").read_text()), "hidden_act": "none such"}
    (tmp_path / "config.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match="cannot build it"):
        tensors_of(tmp_path)
