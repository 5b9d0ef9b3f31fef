"""Shapes: the published totals to the parameter, names however written, adapters by hand, unknown architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.errors import JobError
from launcher.sizing.shape import (
    ARCHITECTURES,
    config_by_name,
    find_model,
    lora_parameters,
    model_names,
    read_shape,
    shape_by_name,
    shape_by_size,
    shape_from_config,
    shape_of_folder,
    targeted,
)

TOTALS = {
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
    "Llama-2-70B": 68_976_648_192,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.3-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mistral-Nemo-12B": 12_247_782_400,
    "Mistral-Small-24B": 23_572_403_200,
    "Mixtral-8x7B": 46_702_792_704,
    "Mixtral-8x22B-v0.1": 140_620_634_112,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Gemma-7B": 8_537_680_896,
    "Gemma-2-2B": 2_614_341_888,
    "Gemma-2-9B": 9_241_705_984,
    "Gemma-2-27B": 27_227_128_320,
    "Phi-3-mini-4k": 3_821_079_552,
    "GPT-NeoX-20B": 20_554_567_680,
    "Falcon-7B": 6_921_720_704,
    "MPT-7B": 6_649_286_656,
    "OPT-125m": 125_239_296,
    "GPT2": 124_439_808,
    "bloom-560m": 559_214_592,
    "pythia-1b": 1_011_781_632,
}
ACTIVE = {
    "Mixtral-8x7B": 12_879_925_248,
    "Qwen3-30B-A3B": 3_353_032_704,
    "Qwen3-235B-A22B": 22_190_763_520,
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_totals_are_exact(name: str) -> None:
    assert shape_by_name(name).num_parameters == TOTALS[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_of_experts(name: str) -> None:
    assert shape_by_name(name).active_parameters == ACTIVE[name]


def test_every_model_of_the_catalogue_adds_up_and_is_found_by_its_name() -> None:
    for name in model_names():
        shape = shape_by_name(name)
        assert shape.name == name
        if shape.num_experts < 32:  # tensor by tensor takes a while for hundreds of experts
            assert sum(tensor.num_parameters for tensor in shape.tensors()) == shape.num_parameters, name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3-8b"),
        ("Llama 3.1 8B", "llama-3-8b"),
        ("Meta-Llama-3-8B-GPTQ", "llama-3-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("Mixtral-8x7B-Instruct-v0.1-GPTQ", "mixtral-8x7b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b"),
        ("Qwen-7B-Chat", "qwen-7b"),
        ("Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
        ("EleutherAI/pythia-6.9b-deduped", "pythia-6.9b"),
        ("Llama-2-70b-hf", "llama-2-70b"),
    ],
)
def test_names_as_people_write_them(written: str, meant: str) -> None:
    assert find_model(written) == meant


def test_a_name_never_means_another_size() -> None:
    assert find_model("Llama-3.1-9B") is None
    with pytest.raises(JobError, match="Nearest: llama-3"):
        shape_by_name("Llama-3.1-9B")


def test_adapters_by_hand() -> None:
    # Mistral-7B, q k v o: 16 x (4096+4096 + 2 x (4096+1024) + 4096+4096) x 32 layers
    shape = shape_by_name("Mistral-7B")
    assert lora_parameters(shape, r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]) == 13_631_488
    dora = lora_parameters(shape, r=16, target_modules=["q_proj"], use_dora=True)
    assert dora - lora_parameters(shape, r=16, target_modules=["q_proj"]) == 4096 * 32


def test_biases_of_adapted_projections() -> None:
    shape = shape_by_name("Qwen2.5-7B")
    plain = lora_parameters(shape, r=8, target_modules=["q_proj"])
    assert lora_parameters(shape, r=8, target_modules=["q_proj"], bias="lora_only") - plain == 3584 * 28
    assert lora_parameters(shape, r=8, target_modules=["q_proj"], bias="all") - plain == (3584 + 2 * 512) * 28


def test_all_linear_reaches_experts_and_routers_as_peft_makes_their_adapters() -> None:
    names = {linear.name for linear, _ in targeted(shape_by_name("Qwen3-30B-A3B"), "all-linear")}
    experts = {"mlp.experts.gate_up_proj", "mlp.experts.*.down_proj", "mlp.gate"}
    assert names == {f"self_attn.{n}_proj" for n in "qkvo"} | experts


def test_a_list_of_names_reaches_experts() -> None:
    chosen = targeted(shape_by_name("Mixtral-8x7B"), ["w1", "w3"])
    assert [(linear.copies, linear.ranks, count) for linear, count in chosen] == [(8, 2, 32)]


def test_half_of_a_fused_pair_of_experts_is_refused() -> None:
    with pytest.raises(JobError, match="w1 of the experts cannot get adapters without w3"):
        targeted(shape_by_name("Mixtral-8x7B"), ["w1"])


def transformers_count(config: dict[str, object]) -> int:
    """Parameters of Transformers' own model, made without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config["model_type"]), **values))
    return sum(parameter.numel() for parameter in model.parameters())


SMALL = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "vocab_size": 331, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}
KINDS: dict[str, dict[str, object]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 96},
    "gemma3_text": {"head_dim": 16},
    "granite": {},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {},
    "stablelm": {},
    "starcoder2": {},
    "gpt_neox": {"num_key_value_heads": 4},
    "phi": {},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "opt": {
        "num_key_value_heads": 4,
        "ffn_dim": 112,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 40,
        "tie_word_embeddings": True,
    },
    "falcon": {"num_key_value_heads": 1, "tie_word_embeddings": True, "multi_query": True, "ffn_hidden_size": 112},
    "bloom": {
        "num_key_value_heads": 4,
        "n_head": 4,
        "n_layer": 2,
        "tie_word_embeddings": True,
        "intermediate_size": 256,
    },
    "gpt2": {
        "num_key_value_heads": 4,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 40,
        "n_inner": 112,
        "tie_word_embeddings": True,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_those_of_transformers(kind: str) -> None:
    config: dict[str, object] = {"model_type": kind, **SMALL, **HEADS, **KINDS[kind]}
    assert shape_from_config(config).num_parameters == transformers_count(config)


def write_safetensors(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header = {name: {"dtype": "BF16", "shape": list(dims), "data_offsets": [0, 0]} for name, dims in tensors.items()}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_unknown_architecture_is_counted_from_headers(tmp_path: Path) -> None:
    config = {"model_type": "novel", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    layer = {"attn.wq.weight": (8, 8), "norm.weight": (8,), "mlp.experts.weight": (4, 8, 16)}
    tensors = {f"model.layers.{i}.{name}": dims for i in range(2) for name, dims in layer.items()}
    write_safetensors(tmp_path / "model.safetensors", tensors | {"model.embed.weight": (10, 8)})
    shape = shape_of_folder(tmp_path)
    assert shape.num_parameters == 2 * (64 + 8 + 512) + 80
    assert "counted from safetensors headers" in shape.notes[0]


@pytest.mark.models  # counted by torch, in a process of its own
def test_unknown_architecture_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lamma"}))
    said = r"unknown model type 'lamma', and it cannot be counted: [^\n]*\nNearest known types: llama"
    with pytest.raises(JobError, match=said):
        shape_of_folder(tmp_path)


def test_multimodal_configurations_count_the_language_model(tmp_path: Path) -> None:
    inner = config_by_name("qwen2.5-7b") | {"model_type": "qwen2_5_vl_text"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "text_config": inner}))
    shape = read_shape(tmp_path / "config.json")
    assert shape.num_parameters == TOTALS["Qwen2.5-7B"]
    assert "only the language model" in shape.notes[0]


@pytest.mark.parametrize("billions", [0.3, 1, 7, 13, 34, 70, 180, 405, 1000])
def test_a_guess_by_size_is_near(billions: float) -> None:
    assert abs(shape_by_size(int(billions * 1e9)).num_parameters / (billions * 1e9) - 1) < 0.1


def test_known_architectures_are_many() -> None:
    assert {"llama", "mistral", "mixtral", "qwen3_moe", "gemma3_text", "phi3", "mpt"} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 32}),
        ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}),
        ("deepseek_v2", {"n_routed_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}),
        ("mixtral", {"num_local_experts": 4}),
        ("granitemoe", {"num_local_experts": 4}),
        ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}),
        ("phi", {"tie_word_embeddings": True}),
    ],
)
def test_configurations_as_transformers_writes_them_now(kind: str, changes: dict, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=96, pad_token_id=0, **({} if kind == "mpt" else small), **changes)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert read_shape(tmp_path / "config.json").num_parameters == sum(p.numel() for p in model.parameters())
