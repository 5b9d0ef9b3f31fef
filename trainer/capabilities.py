"""What a model's architecture can be trained with: attention backends, packing, or why it is refused. Without torch.

One table for all that plan or train: it reads `config.json` as Transformers writes it, and what the device can do.
Families are named by `model_type`. What the table says is held against `docs/architectures.md`, which tiny models of
all families wrote, by `tests/unit/launcher/planner/test_untrainable.py`, and against models by
`tests/process/test_capabilities.py`; families that it does not name are taken to be like Llama, and the trainer checks.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = "own"
CPU_BACKENDS = ("padded", "sdpa", OWN)
GPU_BACKENDS = ("flash", "varlen", "flex", "sdpa", "padded", OWN)
"""In order of preference."""
FUSED_NEEDS_CAPABILITY = 8.0
"""NVIDIA's compute capability from which on there are bfloat16, FlashAttention-2 and Triton's kernels (Ampere)."""
LARGEST_FUSED_HEAD = 256
KERNEL_LACKS = {"flash": ("sinks",), "varlen": ("softcap", "sinks")}
"""What kernels cannot do with scores; a dense mask and FlexAttention can do all."""
WORDS = {"softcap": "bound on scores", "sinks": "attention sinks"}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPUTES_ATTENTION_ITSELF = _names(
    """
    bloom codegen falcon gpt_neo gpt_neox_japanese gptj inkling2_text mpt openai-gpt RefinedWeb RefinedWebModel xglm
    """
)
"""Their layers know no other attention than their own (learned or linear biases, masks in buffers)."""
CARRIES_STATE = _names(
    """
    bailing_hybrid bamba falcon_h1 falcon_mamba jamba kimi_linear lfm2_moe lfm3 mamba mamba2 minimax nemotron_h
    olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text
    recurrent_gemma rwkv xlstm zamba zamba2 zaya
    """
)
"""State spaces, linear attention, convolutions and recurrences: what they carry from token to token knows no border."""
STATEFUL_LAYERS = ("mamba", "linear", "conv", "recurrent", "hybrid", "ssm", "rwkv", "lstm")
"""Words in `layer_types` that mean the same, for families that have such layers or not."""
STATEFUL_UNLESS_TOLD = _names("granitemoehybrid")
"""Families whose layers carry state where their configuration does not say what they are."""
CHOOSES_KEYS_BY_MASK = _names(
    """
    axk2 deepseek_v32 deepseek_v4 hy_v4
    """
)
"""Sparse attention: an indexer of their own chooses the keys, and needs a mask to do so."""
SCALED_BY_PLACE = _names("llama4 llama4_text")
"""Attention grows with a token's place in its row (`attn_temperature_tuning`)."""
REFUSED = {
    "blt": "it reads bytes in patches of its own, not the tokens of a tokenizer",
    "git": "it describes pictures",
    "doge": "a conversation sees its neighbours, even in a row of its own",
    "glm_moe_dsa": "a conversation sees its neighbours, even in a row of its own",
    "dots3_note": "no tiny model of its configuration can be made, on which its loss would be checked",
    "dots3_note_text": "no tiny model of its configuration can be made, on which its loss would be checked",
    "gemma4_assistant": "it drafts for a larger model, and reads that one's keys and values",
    "gemma4_unified_assistant": "it drafts for a larger model, and reads that one's keys and values",
    "inkling_text": "the loss of a conversation alone would not be Transformers' own",
    "modernbert-decoder": "layers stand between its decoder and its vocabulary, so that the loss would not be its own",
}
"""Decoders that the trainer cannot run, and why."""
NEEDS_PACKAGE = {"gemma3n": "timm"}
"""Decoders that Transformers builds only beside another package."""
HAS_SINKS = _names(
    """
    deepseek_v4 flint gpt_oss granite_swa granitemoe_swa hy_v4 mimo_v2_flash
    """
)
SOFTCAPS = {"gemma2": 50.0, "vaultgemma": 50.0}
"""Bounds of attention scores where the configuration leaves them out."""
DROPOUT_KEYS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
NOT_CAUSAL = _names(
    """
    albert bert bert-generation big_bird camembert convbert cpmant data2vec-text electra ernie megatron-bert
    modernbert qdqbert reformer rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta
    xlm-roberta-xl xlnet xmod
    """
)
"""Encoders: a token sees those that follow it."""
TWO_PARTS = _names(
    """
    bart bigbird_pegasus blenderbot blenderbot-small led longt5 marian mbart mt5 musicgen musicgen_melody mvp
    nllb-moe pegasus plbart prophetnet speech_to_text_2 t5 trocr umt5 whisper
    """
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a model is to train.

    Attributes:
        kind: `cpu` or `cuda`.
        dtype: Compute type, `bfloat16` or `float32`.
        has_flash: Whether flash-attn is installed.
        has_bfloat16: Whether the GPU is of the generation that has bfloat16 (Ampere and later), and its kernels.
    """

    kind: str
    dtype: str
    has_flash: bool = False
    has_bfloat16: bool = True

    @property
    def backends(self) -> tuple[str, ...]:
        """All attention backends that there are for it, the best first."""
        return CPU_BACKENDS if self.kind == "cpu" else GPU_BACKENDS


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why something cannot be trained, and what can be done about it."""

    message: str
    remedy: str


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration, with the whole's model type where it has none."""
    inner = config.get("text_config") or config.get("llm_config")
    if not isinstance(inner, Mapping):
        return config
    return {"model_type": config.get("model_type"), **inner}


def refusal(config: Mapping[str, Any]) -> Refusal | None:
    """Why a model cannot be trained at all; None when nothing is known against it."""
    types = _types(config)
    kind = types[-1]
    if kind in TWO_PARTS or config.get("is_encoder_decoder"):
        what = f"{kind} is an encoder-decoder: conversations train language models that continue one text"
        return Refusal(message=what, remedy=ANOTHER)
    if kind in NOT_CAUSAL and not config.get("is_decoder"):
        what = f"{kind} is an encoder, in which tokens see those that follow them: it cannot learn to answer"
        return Refusal(message=what, remedy=ANOTHER)
    if known := next((name for name in types if name in REFUSED), None):
        return Refusal(message=f"{known} cannot be trained here: {REFUSED[known]}", remedy=LISTED)
    return _lacks_package(types) or _lacks_settings(config) or _no_language_model(config)


ANOTHER = "Choose a causal language model, such as a Llama, Qwen, Mistral or Gemma."
LISTED = "Choose another model: docs/architectures.md lists the families that can be trained."


def _lacks_package(types: Iterable[str]) -> Refusal | None:
    for name in types:
        package = NEEDS_PACKAGE.get(name, "")
        if package and importlib.util.find_spec(package) is None:
            what = f"Transformers builds {name} only with the package {package}, which is not installed"
            return Refusal(message=what, remedy=f"pip install {package}, or choose a model without pictures.")
    return None


def _lacks_settings(config: Mapping[str, Any]) -> Refusal | None:
    """Families without defaults for settings that their layers need."""
    inner, types = text_config(config), _types(config)
    needs, lacks = "", False
    if {"qwen4_exp", "qwen4_exp_text"}.intersection(types):
        needs, lacks = "indexer_n_heads and its like", not inner.get("indexer_n_heads")
    elif "cohere_compass_text" in types:
        rope = inner.get("rope_parameters") or {}
        needs, lacks = "rope_parameters of each kind of layer", not any("attention" in str(kind) for kind in rope)
    if not lacks:
        return None
    what = f"Transformers cannot run {types[-1]} without {needs} in its configuration"
    return Refusal(message=what, remedy="Take the config.json that was published with the model.")


def _no_language_model(config: Mapping[str, Any]) -> Refusal | None:
    """What Transformers knows, but not as a language model: models that see, hear, or sort."""
    kind = _types(config)[0]
    if "auto_map" in config or kind not in _names_in("CONFIG_MAPPING_NAMES"):
        return None
    if kind in _names_in("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        return None
    return Refusal(message=f"Transformers has no causal language model of the type {kind}", remedy=LISTED)


@functools.cache
def _names_in(mapping: str) -> frozenset[str]:
    """Model types in a table of the installed Transformers, read without importing it; none where it is not there."""
    found = importlib.util.find_spec("transformers")
    for place in found.submodule_search_locations or () if found else ():
        for file in ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py"):
            if names := _keys_of(Path(place) / "models" / "auto" / file, mapping):
                return names
    return frozenset()


def _keys_of(file: Path, mapping: str) -> frozenset[str]:
    """First entries of the pairs that a module assigns to a name."""
    nodes = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    for node in nodes:
        if isinstance(node, ast.Assign) and mapping in [getattr(name, "id", "") for name in node.targets]:
            pairs = (item.elts for item in ast.walk(node.value) if isinstance(item, ast.Tuple))
            return frozenset(str(pair[0].value) for pair in pairs if pair and isinstance(pair[0], ast.Constant))
    return frozenset()


def why_unpacked(config: Mapping[str, Any], max_length: int = 0) -> str:
    """Why conversations of this model must not share a row; empty where they may."""
    inner, types = text_config(config), _types(config)
    if CARRIES_STATE.intersection(types) or _stateful_layers(inner, types):
        return f"{types[-1]} carries state from token to token, over the borders of conversations"
    if COMPUTES_ATTENTION_ITSELF.intersection(types):
        return f"the layers of {types[-1]} compute attention themselves, and know no borders of conversations"
    if CHOOSES_KEYS_BY_MASK.intersection(types):
        return f"the sparse attention of {types[-1]} needs a mask of its own"
    if SCALED_BY_PLACE.intersection(types) and inner.get("attn_temperature_tuning", True):
        return f"{types[-1]} scales attention by a token's place in its row, not in its conversation"
    chunk = inner.get("attention_chunk_size")
    if isinstance(chunk, int) and chunk < max_length:
        return f"{types[-1]} attends in chunks of {chunk} tokens, which packs do not keep"
    return ""


def why_not(config: Mapping[str, Any], backend: str, device: Device, max_length: int = 0) -> str:
    """Why this model cannot use an attention backend there; empty where it can."""
    if backend not in device.backends:
        return f"{backend} does not train on a CPU"
    if backend == OWN:
        return ""
    return why_unpacked(config, max_length) or _device_lacks(backend, device) or _kernel_lacks(config, backend)


def usable(config: Mapping[str, Any], device: Device, max_length: int = 0) -> list[str]:
    """The attention backends that this model can use there, the best first; `own` goes with all."""
    return [backend for backend in device.backends if not why_not(config, backend, device, max_length)]


def reason_of(config: Mapping[str, Any], chosen: str, device: Device, max_length: int = 0) -> str:
    """Why `chosen` is the best backend: what it is good for, and why no better one is taken."""
    if chosen == OWN:
        reason = why_unpacked(config, max_length)
        return f"{reason}: the model's own attention runs over conversations side by side"
    if device.kind == "cpu":
        return "on the CPU short rows side by side are quicker than one masked row"
    better = device.backends[: device.backends.index(chosen)]
    lacks = (why_not(config, backend, device, max_length) for backend in better)
    return "; ".join([WORTH[chosen], *dict.fromkeys(lacks)])


WORTH = {
    "flash": "flash-attn is installed",
    "varlen": "PyTorch's own varlen attention",
    "flex": "FlexAttention, compiled for this model's scores",
    "sdpa": "PyTorch's attention with one mask for all conversations",
    "padded": "conversations side by side",
}


def attention_dropout(config: Mapping[str, Any]) -> float:
    """The dropout of attention scores that a configuration declares."""
    inner = text_config(config)
    values = [config.get(key) for key in DROPOUT_KEYS] + [inner.get(key) for key in DROPOUT_KEYS]
    nested = inner.get("attn_config")
    values += [nested.get("attn_pdrop")] if isinstance(nested, Mapping) else []
    return max((float(value) for value in values if isinstance(value, int | float)), default=0.0)


def softcap(config: Mapping[str, Any]) -> float:
    """The bound of attention scores; 0 without one."""
    inner = text_config(config)
    default = next((SOFTCAPS[kind] for kind in _types(config) if kind in SOFTCAPS), 0.0)
    return float(inner.get("attn_logit_softcapping", default) or 0.0)


def head_sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """The largest size of a query's head, and that of a value's; 0 where the configuration does not say."""
    inner = text_config(config)
    heads = _number(inner, "num_attention_heads", "n_head", "n_heads", "num_heads")
    width = _number(inner, "hidden_size", "n_embd", "d_model")
    plain = _number(inner, "head_dim") or (width // heads if heads else 0)
    query = max(_number(inner, "qk_nope_head_dim") + _number(inner, "qk_rope_head_dim"), 0)
    layers = inner.get("per_layer_config")
    own = [_number(layer, "head_dim") for layer in (layers.values() if isinstance(layers, Mapping) else ())]
    largest = max(query or plain, _number(inner, "global_head_dim"), *own)
    return largest, _number(inner, "v_head_dim") or largest


def lacking(backend: str, asked: Iterable[str]) -> str:
    """The first of what layers ask of their scores, `softcap` or `sinks`, that a kernel lacks; empty if it has all."""
    return next((WORDS[what] for what in asked if what in KERNEL_LACKS.get(backend, ())), "")


def _types(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Model types of the whole and of its language model, which is the last."""
    found = [str(part.get("model_type")) for part in (config, text_config(config)) if part.get("model_type")]
    return tuple(dict.fromkeys(found)) or ("this model",)


def _stateful_layers(inner: Mapping[str, Any], types: Iterable[str]) -> bool:
    """Whether a layer is of a kind that carries state; softmax attention over all or a window does not."""
    kinds: Iterable[Any] = inner.get("layer_types") or inner.get("layers_block_type") or ()
    if not kinds:
        return bool(STATEFUL_UNLESS_TOLD.intersection(types) or inner.get("full_attn_idxs"))
    return any(word in str(kind).lower() for kind in kinds for word in STATEFUL_LAYERS)


def _device_lacks(backend: str, device: Device) -> str:
    if backend not in ("flash", "varlen", "flex"):
        return ""
    if not device.has_bfloat16:
        return f"{backend} needs a GPU of the Ampere generation or later"
    if backend == "flash" and not device.has_flash:
        return "flash-attn is not installed"
    if backend != "flex" and device.dtype == "float32":
        return f"{backend} computes in 16 bits only"
    return ""


def _kernel_lacks(config: Mapping[str, Any], backend: str) -> str:
    kind = _types(config)[-1]
    asked = {"softcap": bool(softcap(config)), "sinks": bool(HAS_SINKS.intersection(_types(config)))}
    if lacks := lacking(backend, [what for what, there in asked.items() if there]):
        return f"{backend} has no {lacks}, which {kind} has"
    largest = max(head_sizes(config))
    if backend in ("flash", "varlen", "flex") and largest > LARGEST_FUSED_HEAD:
        return f"{backend} takes heads of at most {LARGEST_FUSED_HEAD}, and those of {kind} have {largest}"
    return ""


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of some settings that is a positive whole number, else 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0)
