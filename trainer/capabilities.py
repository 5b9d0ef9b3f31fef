"""What a model's architecture can be trained with: attention backends, packing, or why it is refused. Without torch.

One table for all that plan or train: it reads `config.json` as Transformers writes it, and what the device can do.
Families are named by `model_type`. What the table says is held against the models themselves by
`tests/process/test_capabilities.py`; families that it does not name are taken to be like Llama, and the trainer checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OWN = "own"
CPU_BACKENDS = ("padded", "sdpa", OWN)
GPU_BACKENDS = ("flash", "varlen", "flex", "sdpa", "padded", OWN)
"""In order of preference."""
FUSED_NEEDS_CAPABILITY = 8.0
"""NVIDIA's compute capability from which on there are bfloat16, FlashAttention-2 and Triton's kernels (Ampere)."""
LARGEST_FUSED_HEAD = 256


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPUTES_ATTENTION_ITSELF = _names(
    """
    biogpt bloom codegen falcon gpt_neo gpt_neox_japanese gptj inkling2_text inkling_text mpt openai-gpt RefinedWeb
    RefinedWebModel xglm
    """
)
"""Their layers know no other attention than their own (learned or linear biases, masks in buffers)."""
CARRIES_STATE = _names(
    """
    bailing_hybrid bamba falcon_h1 falcon_mamba jamba kimi_linear lfm2 lfm2_moe lfm3 mamba mamba2 minimax nemotron_h
    olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text
    recurrent_gemma rwkv xlstm zamba zamba2 zaya
    """
)
"""State spaces, linear attention, convolutions and recurrences: what they carry from token to token knows no border."""
STATEFUL_LAYERS = ("mamba", "linear", "conv", "recurrent", "hybrid", "ssm", "rwkv", "lstm")
"""Words in `layer_types` that mean the same, for families that have such layers or not."""
CHOOSES_KEYS_BY_MASK = _names(
    """
    axk2 deepseek_v32 glm_moe_dsa hy_v4
    """
)
"""Sparse attention: an indexer of their own chooses the keys, and needs a mask to do so."""
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
    kind = _types(config)[-1]
    if kind in TWO_PARTS or config.get("is_encoder_decoder"):
        what = f"{kind} is an encoder-decoder: conversations train language models that continue one text"
    elif kind in NOT_CAUSAL and not config.get("is_decoder"):
        what = f"{kind} is an encoder, in which tokens see those that follow them: it cannot learn to answer"
    else:
        return None
    return Refusal(message=what, remedy="Choose a causal language model, such as a Llama, Qwen, Mistral or Gemma.")


def why_unpacked(config: Mapping[str, Any], max_length: int = 0) -> str:
    """Why conversations of this model must not share a row; empty where they may."""
    inner, types = text_config(config), _types(config)
    if CARRIES_STATE.intersection(types) or _stateful_layers(inner):
        return f"{types[-1]} carries state from token to token, over the borders of conversations"
    if COMPUTES_ATTENTION_ITSELF.intersection(types):
        return f"the layers of {types[-1]} compute attention themselves, and know no borders of conversations"
    if CHOOSES_KEYS_BY_MASK.intersection(types):
        return f"the sparse attention of {types[-1]} needs a mask of its own"
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


def _types(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Model types of the whole and of its language model, which is the last."""
    found = [str(part.get("model_type")) for part in (config, text_config(config)) if part.get("model_type")]
    return tuple(dict.fromkeys(found)) or ("this model",)


def _stateful_layers(inner: Mapping[str, Any]) -> bool:
    """Whether a layer is of a kind that carries state; softmax attention over all or a window does not."""
    kinds: Iterable[Any] = inner.get("layer_types") or inner.get("layers_block_type") or ()
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
    if backend == "varlen" and softcap(config):
        return f"varlen has no bound on scores, which {kind} has"
    if backend in ("flash", "varlen") and HAS_SINKS.intersection(_types(config)):
        return f"{backend} has no attention sinks, which {kind} has"
    largest = max(head_sizes(config))
    if backend in ("flash", "varlen", "flex") and largest > LARGEST_FUSED_HEAD:
        return f"{backend} takes heads of at most {LARGEST_FUSED_HEAD}, and those of {kind} have {largest}"
    return ""


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of some settings that is a positive whole number, else 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0)
