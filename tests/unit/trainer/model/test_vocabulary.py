"""New tokens for a base model: trained rows, in checkpoints and exports, for full and LoRA, tied and untied heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import tiny
from tests.support.stock_templates import Stock, stock_tokenizer
from trainer.checkpoint.export import save_chat
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.chat_template.tokenizer import load_tokenizer
from trainer.errors import UserError
from trainer.evaluation.answers import evaluate_prompts, load_exported
from trainer.model.build import build_model

pytestmark = pytest.mark.models

ADDED = ["<|im_start|>", "<|im_end|>"]
NEW = {"eos_token": "<|im_end|>", "added_tokens": ADDED}


def base_model(folder: Path, *, tied: bool = False) -> Path:
    """A model whose tokenizer ends texts with `</s>` and has no chat template."""
    tokenizer = stock_tokenizer(Stock("", "</s>"))
    tokenizer.chat_template = None
    tiny.make_model(folder, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=tied)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def config_of(model: Path, rows: Path, **changes: Any) -> TrainerConfig:
    raw = tiny.trainer_config(model, rows, **changes)
    raw["model"] |= NEW
    raw["data"] |= {"chat_template": "chatml"}
    return TrainerConfig.model_validate(raw)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_new_rows_start_at_the_mean_and_train(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = base_model(tmp_path / "model", tied=tied)
    saved = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    method = {"kind": "lora", "modules_to_save": saved} if kind == "lora" else {"kind": "full"}
    model = build_model(config_of(folder, tmp_path / "rows.jsonl", method=method))
    old = len(AutoTokenizer.from_pretrained(folder))
    layers = [model.inner.get_input_embeddings(), model.inner.get_output_embeddings()]
    for layer in layers:
        weight = layer.modules_to_save["default"].weight if kind == "lora" else layer.weight
        assert weight.requires_grad and weight.shape[0] == old + 2
        torch.testing.assert_close(weight[old:].detach(), weight[:old].detach().mean(0).expand(2, -1))
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.shape[:1] == (old + 2,)]
    assert len(names) == (1 if tied else 2)


def test_adapters_that_leave_the_new_rows_alone_are_refused(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "model")
    with pytest.raises(ValidationError, match=r"would not be trained.*modules_to_save: \[embed_tokens, lm_head\]"):
        config_of(folder, tmp_path / "rows.jsonl", method={"kind": "lora"})
    half = {"kind": "lora", "modules_to_save": ["lm_head"]}
    with pytest.raises(UserError, match=r"would not be trained(.|\n)*modules_to_save: \[embed_tokens, lm_head\]"):
        build_model(config_of(folder, tmp_path / "rows.jsonl", method=half))


def test_an_end_that_the_vocabulary_lacks_is_refused_with_the_way_to_add_it(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"added_tokens: \[\"<.im_end.>\"\]"):
        load_tokenizer(ModelConfig(path=str(folder), eos_token="<|im_end|>"))
    assert load_tokenizer(ModelConfig(path=str(folder), **NEW)).eos_token == "<|im_end|>"


@pytest.mark.parametrize(("kind", "tied"), [("full", False), ("lora", True)])
def test_what_is_exported_knows_the_new_tokens_and_stops_at_the_new_end(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = base_model(tmp_path / "model", tied=tied)
    method = {"kind": "lora", "modules_to_save": ["embed_tokens"]} if kind == "lora" else {"kind": "full"}
    config = config_of(folder, tmp_path / "rows.jsonl", method=method)
    causal_lm, out = build_model(config).causal_lm, tmp_path / "out"
    causal_lm.save_pretrained(out)
    save_chat(config, causal_lm, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.encode("<|im_start|>", add_special_tokens=False) == [
        tokenizer.get_vocab()["<|im_start|>"]
    ]
    assert tokenizer.eos_token_id in json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    weights = load_file(next(out.glob("*.safetensors")))
    rows = {w.shape[0] for name, w in weights.items() if "embed_tokens" in name or "lm_head" in name}
    assert rows == {len(tokenizer)}
    model, _ = load_exported(config, out)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_answers_stop_at_every_token_that_ends_a_turn(tmp_path: Path) -> None:
    """A model that always writes token 0, which generation_config.json names beside the tokenizer's eos_token."""
    folder = tiny.make_model(tmp_path / "model")
    causal_lm = AutoModelForCausalLM.from_pretrained(folder)
    causal_lm.model.norm.weight.data.zero_()
    causal_lm.generation_config.eos_token_id = [causal_lm.config.eos_token_id, 0]
    causal_lm.save_pretrained(folder)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": [{"role": "user", "content": "q"}], "answer": "a"}))
    config = TrainerConfig.model_validate(tiny.trainer_config(folder, tmp_path / "rows.jsonl"))
    found = evaluate_prompts(config, model_dir=folder, prompts_file=prompts, output=tmp_path / "evaluation.json")
    assert len(found["examples"][0]["answer"]) == 1, "one token, not the 128 that it may write"
