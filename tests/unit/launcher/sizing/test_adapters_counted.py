"""Adapters of experts, biases and whole modules are counted as PEFT makes them."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import JobError
from launcher.planner.layouts.gpu_candidate import predicted
from launcher.sizing.hardware import CPU
from launcher.sizing.layout import Adapters, ParallelLayout
from launcher.sizing.memory import MemoryInput
from launcher.sizing.shape import (
    lora_parameters,
    refused_adapters,
    shape_from_config,
    targeted,
    without_adapters,
)
from launcher.sizing.trainer_model import our_trainer

pytestmark = pytest.mark.models

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 331,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 2,
}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 32},
    "granitemoe": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "deepseek_v3": {"n_routed_experts": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1, **LATENT},
}
SINGLE = {"mixtral": ["q_proj", "w1", "w2", "w3"], "qwen3_moe": ["q_proj", "gate_proj", "up_proj", "down_proj"]}


def config_of(kind: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **{**SMALL, **FAMILIES[kind]})


@pytest.mark.parametrize(("kind", "targets"), [*((kind, "all-linear") for kind in FAMILIES), *SINGLE.items()])
def test_adapters_of_experts_are_those_that_peft_makes(kind: str, targets: Any) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = config_of(kind)
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=5, target_modules=targets))
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    shape = shape_from_config(config.to_dict())
    assert lora_parameters(shape, r=5, target_modules=targets) == sum(trained.values())
    has = any(".experts." in name for name in trained)
    assert without_adapters(shape, targeted(shape, targets)) is not has


def test_half_of_a_fused_pair_is_refused() -> None:
    with pytest.raises(JobError, match="without up_proj"):
        targeted(shape_from_config(config_of("qwen3_moe").to_dict()), ["q_proj", "gate_proj"])


@pytest.mark.parametrize(
    ("kind", "targets", "tied", "options", "setting"),
    [
        ("llama", ["q_proj", "lm_head"], False, {}, "target_modules"),
        ("llama", ["q_proj", "embed_tokens"], True, {}, "target_modules"),
        ("llama", ["q_proj", "embed_tokens"], False, {}, None),
        ("mixtral", "all-linear", False, {"dropout": True}, "lora_dropout"),
        ("mixtral", ["q_proj"], False, {"dropout": True}, None),
    ],
)
def test_adapters_that_cannot_be_learnt_are_refused(
    kind: str, targets: Any, tied: bool, options: dict[str, bool], setting: str | None
) -> None:
    shape = shape_from_config({**SMALL, "model_type": kind, "num_local_experts": 4, "tie_word_embeddings": tied})
    found = refused_adapters(shape, targeted(shape, targets), **{"dropout": False, "dora": False, **options})
    assert (found and found[0]) == setting


def test_the_cpu_counts_biases_and_whole_modules() -> None:
    shape = shape_from_config({**SMALL, "model_type": "qwen2"})

    def trained(**more: Any) -> int:
        adapters = Adapters(r=4, targets=["q_proj"], **more)
        layout = ParallelLayout(engine="zero0", length=64, checkpointing="none", chunk_tokens=64, adapters=adapters)
        trainer = our_trainer("zero0", dtype="float32", attention="sdpa")
        return predicted(MemoryInput(shape=shape, layout=layout, trainer=trainer, hardware=CPU)).num_trainable

    assert trained(bias="lora_only") - trained() == 2 * 48
    assert trained(saved_modules=331 * 48) - trained() == 331 * 48
