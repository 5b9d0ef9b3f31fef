"""Parameter counts are exact: against published totals, and against Transformers' own classes."""

from __future__ import annotations

import json

import pytest

from launcher.errors import JobError
from launcher.sizing.shape import lora_parameters, read_shape, shape_from_config

KINDS = ("gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3")

# hidden, layers, heads, kv heads, head_dim, ffn, vocabulary, tied, published parameters
PUBLISHED = {
    "Llama-2-7B": ("llama", 4096, 32, 32, 32, 128, 11008, 32000, False, 6_738_415_616),
    "Llama-3.1-8B": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, False, 8_030_261_248),
    "Llama-3.1-405B": ("llama", 16384, 126, 128, 8, 128, 53248, 128256, False, 405_853_388_800),
    "Llama-3.2-1B": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, True, 1_235_814_400),
    "Mistral-7B": ("mistral", 4096, 32, 32, 8, 128, 14336, 32000, False, 7_241_732_096),
    "Mistral-Nemo-12B": ("mistral", 5120, 40, 32, 8, 128, 14336, 131072, False, 12_247_782_400),
    "Qwen2.5-0.5B": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, True, 494_032_768),
    "Qwen2.5-7B": ("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, False, 7_615_616_512),
    "Qwen3-8B": ("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, False, 8_190_735_360),
    "Qwen3-32B": ("qwen3", 5120, 64, 64, 8, 128, 25600, 151936, False, 32_762_123_264),
    "Gemma-7B": ("gemma", 3072, 28, 16, 16, 256, 24576, 256000, True, 8_537_680_896),
    "Gemma-2-9B": ("gemma2", 3584, 42, 16, 8, 256, 14336, 256000, True, 9_241_705_984),
    "Phi-3-mini": ("phi3", 3072, 32, 32, 32, 96, 8192, 32064, False, 3_821_079_552),
}


def config_of(name: str) -> dict[str, object]:
    kind, hidden, layers, heads, kv_heads, head_dim, ffn, vocabulary, tied, _ = PUBLISHED[name]
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    assert shape_from_config(config_of(name)).num_parameters == PUBLISHED[name][-1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_sum_of_tensors_is_the_total(name: str) -> None:
    shape = shape_from_config(config_of(name))
    assert sum(tensor.num_parameters for tensor in shape.tensors()) == shape.num_parameters


def transformers_tensors(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Name and dimensions of every parameter, as Transformers makes them, without any memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config["model_type"]), **values))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def small(kind: str, **changes: object) -> dict[str, object]:
    sizes = {"hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "vocab_size": 331}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    }
    return {"model_type": kind, **sizes, **heads, **changes}


CONFIGS = [
    *(small(kind) for kind in KINDS),
    *(small(kind, tie_word_embeddings=True) for kind in KINDS),
    small("llama", attention_bias=True),
    small("llama", mlp_bias=True, num_key_value_heads=None),
    small("llama", head_dim=20),
    small("mistral", head_dim=None),
    small("qwen3", attention_bias=True, head_dim=32),
    small("gemma", attention_bias=True),
    small("gemma2", head_dim=8, attention_bias=True),
    config_of("Llama-3.1-8B"),
    config_of("Gemma-2-9B"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c['model_type']}-{c['hidden_size']}")
def test_every_tensor_as_in_transformers(config: dict[str, object]) -> None:
    ours = {tensor.name: tensor.dims for tensor in shape_from_config(config).tensors()}
    assert ours == transformers_tensors(config)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_missing_keys_as_in_transformers(kind: str) -> None:
    missing = ("num_key_value_heads", "tie_word_embeddings")
    config = {
        key: value for key, value in small(kind, num_attention_heads=32, hidden_size=64).items() if key not in missing
    }
    ours = {tensor.name: tensor.dims for tensor in shape_from_config(config).tensors()}
    assert ours == transformers_tensors(config)


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj"], r".*mlp\.(up|down)_proj"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_adapters_as_in_peft(kind: str, target: str | list[str], use_dora: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    if kind == "phi3" and target != "all-linear":
        target = ["qkv_proj", "down_proj"]
    config = small(kind)
    values = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        peft = get_peft_model(model, LoraConfig(r=5, target_modules=target, use_dora=use_dora, task_type="CAUSAL_LM"))
    trainable = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    shape = shape_from_config(config)
    assert lora_parameters(shape, r=5, target_modules=target, use_dora=use_dora) == trainable


def test_unknown_projection_names_the_nearest() -> None:
    with pytest.raises(JobError, match=r"llama has no projection 'qproj'\nDid you mean q_proj\?"):
        lora_parameters(shape_from_config(small("llama")), r=4, target_modules=["qproj"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "unknown model type 'lama'\nNearest known types: llama, olmo2, gemma"),
        ({}, "has no `model_type`"),
        (small("llama", hidden_size="48"), "`hidden_size` must be a positive whole number (got '48')"),
        (small("llama", vocab_size=0), "`vocab_size` must be a positive whole number (got 0)"),
    ],
)
def test_bad_configurations(config: dict[str, object], message: str) -> None:
    with pytest.raises(JobError) as caught:
        shape_from_config(config)
    assert message in str(caught.value)


def test_config_that_is_no_json(tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": ')
    with pytest.raises(JobError, match="not valid JSON"):
        read_shape(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(JobError, match="holds no JSON object"):
        read_shape(path)
