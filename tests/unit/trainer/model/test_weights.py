"""Weights that the files lack, or that the model does not have, are named and never made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.config import ModelConfig, TrainerConfig
from trainer.errors import UserError

pytestmark = pytest.mark.models

Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return {
        "plain": tiny.make_model(folder / "plain"),
        "tied": tiny.make_model(folder / "tied", tie_word_embeddings=True),
        "experts": tiny.make_model(folder / "experts", "mixtral", **experts),
    }


def variant(model: Path, folder: Path, change: Callable[[Tensors], Tensors] = dict, **config: Any) -> Path:
    """A copy of a model with other tensors in its file, or other settings in its config.json."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def with_a(name: str, like: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensors[like].clone()}


def below(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: t for name, t in tensors.items()}


NORM = "model.norm.weight"
BROKEN = {
    "another prefix": ("plain", below("language_model."), {}, "lm_head.weight"),
    "a layer missing": ("plain", without("layers.1"), {}, "layers.1.mlp.down_proj.weight"),
    "a tensor missing": ("plain", without("layers.0.self_attn.q_proj"), {}, "layers.0.self_attn.q_proj.weight"),
    "no head, and none tied": ("tied", dict, {"tie_word_embeddings": False}, "tie_word_embeddings: true"),
    "tied, and two that differ": ("plain", dict, {"tie_word_embeddings": True}, "lm_head.weight is model.embed_tokens"),
    "a bias that the model has not": ("plain", with_a("model.layers.0.mlp.up_proj.bias", NORM), {}, "up_proj.bias"),
    "biases that the files have not": ("plain", dict, {"attention_bias": True}, "self_attn.{k,o,q,v}"),
    "more layers in the files": ("plain", dict, {"num_hidden_layers": 1}, "layers.1.mlp.down_proj.weight"),
    "other shapes": ("plain", dict, {"intermediate_size": 48}, "[64, 32] in the files and [48, 32] in the model"),
    "an expert missing": ("experts", without("layers.1.block_sparse_moe.experts.2"), {}, "layers.1.mlp.experts"),
}
SOUND = {
    "as saved": ("plain", dict),
    "tied": ("tied", dict),
    "tied, and the same twice": ("tied", with_a("lm_head.weight", "model.embed_tokens.weight")),
    "experts stored one by one": ("experts", dict),
    "without the base model's prefix": (
        "plain",
        lambda tensors: {name.removeprefix("model."): t for name, t in tensors.items()},
    ),
    "a table that older releases stored": ("plain", with_a("model.layers.0.self_attn.rotary_emb.inv_freq", NORM)),
    "a tower for pictures": ("plain", with_a("visual.blocks.0.norm.weight", NORM)),
    "a head for tokens further ahead": ("plain", with_a("mtp.layers.0.norm.weight", NORM)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_files_and_model_do_not_share_is_named_before_and_while_loading(
    models: dict[str, Path], tmp_path: Path, case: str
) -> None:
    from trainer.model.loading.weights import checked_headers, load_complete

    model, change, config, named = BROKEN[case]
    folder = variant(models[model], tmp_path / "model", change, **config)
    for look in (lambda: checked_headers(ModelConfig(path=str(folder))), lambda: load_complete(str(folder))):
        with pytest.raises(UserError) as error:
            look()
        parts = ["k_proj.bias", "o_proj.bias", "q_proj.bias", "v_proj.bias"] if "{k" in named else [named]
        assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("case", SOUND)
def test_what_an_architecture_derives_is_no_fault(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    from trainer.model.loading.weights import checked_headers, load_complete

    model, change = SOUND[case]
    folder = variant(models[model], tmp_path / "model", change)
    found = checked_headers(ModelConfig(path=str(folder)))
    assert found["tensors"]
    assert bool(found["beside"]) == ("pictures" in case or "ahead" in case)
    load_complete(str(folder))


def test_quantised_and_adapted_loads_name_what_is_missing(models: dict[str, Path], tmp_path: Path) -> None:
    from trainer.model.build import build_model

    folder = variant(models["plain"], tmp_path / "model", without("layers.1"))
    for method in ({"kind": "full"}, {"kind": "lora"}, {"kind": "lora", "quantization": "nf4"}):
        raw = tiny.trainer_config(folder, tmp_path / "rows.jsonl", method=method)
        with pytest.raises(UserError, match="lack 9 tensors"):
            build_model(TrainerConfig.model_validate(raw))


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no weights"), (b"", "damaged"), (b"\x08" + b"\0" * 7 + b"{}      more", "damaged")]
)
def test_absent_and_damaged_files_are_named(
    models: dict[str, Path], tmp_path: Path, content: bytes | None, said: str
) -> None:
    from trainer.model_files.headers import weight_headers

    folder = variant(models["plain"], tmp_path / "model")
    file = folder / "model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        weight_headers(ModelConfig(path=str(folder)))


def test_a_model_that_is_stored_quantised_is_refused_before_it_is_queued(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from trainer.model.inspection.examine import examine

    packed = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    folder = variant(models["plain"], tmp_path / "packed", quantization_config=packed)
    with pytest.raises(UserError, match=r"quantised already \(gptq\)"):
        examine(ModelConfig(path=str(folder)))
