"""The shape that a Hugging Face `config.json` describes, read without torch."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.sizing.shape.families import ARCHITECTURES, Architecture, llama_layers, norm
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Tensor
from launcher.sizing.shape.widths import Widths

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
}
"""Other names of the dimensions that every model has (GPT-2, MPT, OPT, ChatGLM)."""
FFN_KEYS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
KV_KEYS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
TYPE_ALIASES = {
    "gemma3": "gemma3_text",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "internlm2": "llama",
    "mistral3": "mistral",
    "ministral": "mistral",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "phi-msft": "phi",
    "glm4_moe_text": "glm4_moe",
}
"""Types whose language model has another type's tensors."""


def shape_from_config(config: dict[str, Any], where: str = "config.json", name: str = "") -> ModelShape:
    """The shape that a Hugging Face `config.json` describes; of a multimodal model, its language model.

    Args:
        config: The parsed file.
        where: The file's name, for messages.
        name: The model's name, if it has one.

    Raises:
        JobError: the model type is unknown, or a dimension is missing or not a positive whole number.
    """
    config, notes = _language_model(config)
    model_type = known_model_type(config, where)
    arch = ARCHITECTURES[model_type]
    widths = _widths(config | {"model_type": model_type}, arch, where)
    try:
        layers = (arch.layers or llama_layers)(widths, arch)
    except (TypeError, ValueError, ArithmeticError) as error:  # a value of another kind than the family has
        raise JobError(f"{where}: cannot be read as a {model_type}: {error}", "Download the model again.") from error
    return ModelShape(
        model_type=model_type,
        hidden_size=widths.hidden,
        intermediate_size=_used_ffn(widths),
        num_layers=widths.layers,
        num_heads=widths.heads,
        num_kv_heads=widths.kv_heads,
        head_dim=widths.head_dim,
        vocab_size=widths.vocab,
        tied_embeddings=widths.tied,
        layers=tuple(layers),
        root=_root(widths, arch),
        layer_prefix=arch.prefix,
        gated_mlp=arch.gated,
        rms_norm=arch.norm == "rms",
        norms_per_layer=arch.norms_per_layer,
        num_experts=max((linear.copies for linear in layers[-1].linears), default=0) if layers[-1].has_experts else 0,
        experts_per_token=max((linear.active for linear in layers[-1].linears if linear.is_expert), default=0),
        parallel_residual=arch.parallel,
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(arch.mlp_bias_key and config.get(arch.mlp_bias_key, False)),
        name=name,
        notes=notes,
    )


def _language_model(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    inner = config.get("text_config") or config.get("llm_config")
    if not isinstance(inner, dict):
        return config, ()
    merged = {k: v for k, v in config.items() if k in ("tie_word_embeddings", "model_type")} | inner
    return merged, ("only the language model is counted, without towers for images or sound",)


def _used_ffn(w: Widths) -> int:
    """Width of the MLP that a token passes: an expert's where there are experts."""
    if w.config["model_type"] == "qwen":
        return w.ffn // 2
    return int(w.setting("moe_intermediate_size", w.ffn))


def _widths(config: dict[str, Any], arch: Architecture, where: str) -> Widths:
    size = {key: _dimension(config, key, where, names) for key, names in ALIASES.items()}
    heads, hidden = size["num_attention_heads"], size["hidden_size"]
    return Widths(
        hidden=hidden,
        ffn=_ffn(config, hidden, where),
        layers=size["num_hidden_layers"],
        heads=heads,
        kv_heads=_kv_heads(config, arch, heads, where),
        head_dim=_head_dim(config, arch, hidden // heads, where),
        vocab=size["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", arch.tied_by_default)),
        config=config,
    )


def _ffn(config: dict[str, Any], hidden: int, where: str) -> int:
    """Width of the MLP; four times the hidden size where GPT-like configurations leave it out."""
    for key in FFN_KEYS:
        if config.get(key) is not None:
            return _dimension(config, key, where, (key,))
    if config["model_type"] in ("gpt2", "gpt_bigcode", "bloom", "falcon", "mpt"):
        return int(config.get("expansion_ratio", 4) * hidden)
    return _dimension(config, "intermediate_size", where, ("intermediate_size",))


def _kv_heads(config: dict[str, Any], arch: Architecture, heads: int, where: str) -> int:
    kind = config["model_type"]
    if kind == "gpt_bigcode":
        return 1 if config.get("multi_query", True) else heads
    if kind == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    for key in KV_KEYS:
        if key in config:
            return heads if config[key] is None else _dimension(config, key, where, (key,))
    if kind == "mpt":
        return int((config.get("attn_config") or {}).get("kv_n_heads", heads))
    return arch.kv_heads_default or heads


def _root(w: Widths, arch: Architecture) -> tuple[Tensor, ...]:
    """Embeddings, final norm and output head."""
    model, embed, final, head = _root_names(w.config["model_type"])
    tensors = [Tensor(name=f"{model}{embed}.weight", dims=(w.vocab, w.hidden))]
    if arch.positions:
        key, offset = arch.positions
        tensors.append(Tensor(name=f"{model}positions.weight", dims=(w.setting(key, 1024) + offset, w.hidden)))
    if w.config["model_type"] == "bloom":
        tensors += norm(f"{model}word_embeddings_layernorm", w.hidden, "layer")
    tensors += norm(model + final, w.hidden, arch.norm)
    if not w.tied:
        tensors.append(Tensor(name=f"{head}.weight", dims=(w.vocab, w.hidden)))
    if w.config["model_type"] == "phi":
        tensors.append(Tensor(name=f"{head}.bias", dims=(w.vocab,)))
    return tuple(tensors)


def _root_names(kind: str) -> tuple[str, str, str, str]:
    """Prefix, embedding, final norm and output head, as the family calls them."""
    if kind in ("gpt2", "gpt_bigcode", "mpt", "qwen"):
        return "transformer.", "wte", "norm_f" if kind == "mpt" else "ln_f", "lm_head"
    if kind in ("falcon", "bloom"):
        return "transformer.", "word_embeddings", "ln_f", "lm_head"
    if kind == "gpt_neox":
        return "gpt_neox.", "embed_in", "final_layer_norm", "embed_out"
    if kind == "opt":
        return "model.decoder.", "embed_tokens", "final_layer_norm", "lm_head"
    return "model.", "embed_tokens", "final_layernorm" if kind == "phi" else "norm", "lm_head"


def read_shape(config_path: Path) -> ModelShape:
    """The shape of the model whose `config.json` lies at `config_path`.

    Raises:
        JobError: the file is missing, is not JSON, or describes no known model.
    """
    return shape_from_config(read_config(config_path), str(config_path))


def read_config(config_path: Path) -> dict[str, Any]:
    """A model's `config.json` as a dictionary.

    Raises:
        JobError: the file cannot be read, or is not a JSON object.
    """
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{config_path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise JobError(f"{config_path}: not valid JSON: {error}", "Download the model again.") from error
    if not isinstance(config, dict):
        raise JobError(f"{config_path}: holds no JSON object", "Download the model again.")
    return config


def is_described(config: dict[str, Any]) -> bool:
    """Whether the configuration's model type is one that Tuneyard has a description of."""
    model_type = _language_model(config)[0].get("model_type")
    return TYPE_ALIASES.get(str(model_type), model_type) in ARCHITECTURES


def known_model_type(config: dict[str, Any], where: str) -> str:
    """The configuration's model type, if it is one that Tuneyard knows.

    Raises:
        JobError: there is none, or it is unknown; the nearest known types are named.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise JobError(f"{where}: has no `model_type`", f"Known types: {', '.join(ARCHITECTURES)}.")
    model_type = TYPE_ALIASES.get(model_type, model_type)
    if model_type not in ARCHITECTURES:
        near = difflib.get_close_matches(model_type, ARCHITECTURES, n=3, cutoff=0.4)
        hint = f"Nearest known types: {', '.join(near)}." if near else f"Known: {', '.join(ARCHITECTURES)}."
        raise JobError(f"{where}: unknown model type {model_type!r}", hint)
    return model_type


def _dimension(config: dict[str, Any], key: str, where: str, names: tuple[str, ...]) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), config.get(key))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise JobError(f"{where}: `{key}` must be a positive whole number (got {value!r})")
    return value


def _head_dim(config: dict[str, Any], arch: Architecture, derived: int, where: str) -> int:
    if "head_dim" not in config:
        return arch.head_dim_default or derived
    return derived if config["head_dim"] is None else _dimension(config, "head_dim", where, ("head_dim",))
