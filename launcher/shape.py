"""The shape of a model, read from its `config.json` without torch: exact tensors, exact parameter counts.

The memory model, the planner and the checks of the job file all need to know how large a model is before any
GPU or any deep-learning package is at hand. Each supported architecture is one row of `ARCHITECTURES`: which
tensors a layer has, and what the configuration's keys default to. The counts equal those of Transformers' own
classes to the parameter; a test holds the two against each other.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from launcher.errors import JobError


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What sets one model type apart from a plain Llama.

    Attributes:
        qkv_bias: Bias of the query, key and value projections; `None` means that `attention_bias` decides.
        output_bias: Bias of the attention's output projection; `None` means that `attention_bias` decides.
        mlp_bias_key: Configuration key that gives the MLP's projections a bias, if there is one.
        norms_per_layer: RMSNorm weights of hidden size in one layer.
        qk_norm: One RMSNorm of head size for queries and one for keys.
        fused: Query, key and value are one matrix, and so are gate and up (Phi-3).
        tied_by_default: What a missing `tie_word_embeddings` means.
        head_dim_default: What a missing `head_dim` means; `None` is hidden size over heads.
        kv_heads_default: What a missing `num_key_value_heads` means; `None` is the number of heads.
    """

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias_key: str | None = None
    norms_per_layer: int = 2
    qk_norm: bool = False
    fused: bool = False
    tied_by_default: bool = False
    head_dim_default: int | None = None
    kv_heads_default: int | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "gemma": Architecture(tied_by_default=True, head_dim_default=256, kv_heads_default=16),
    "gemma2": Architecture(norms_per_layer=4, tied_by_default=True, head_dim_default=256, kv_heads_default=4),
    "llama": Architecture(mlp_bias_key="mlp_bias"),
    "mistral": Architecture(qkv_bias=False, output_bias=False, kv_heads_default=8),
    "phi3": Architecture(qkv_bias=False, output_bias=False, fused=True),
    "qwen2": Architecture(qkv_bias=True, output_bias=False, kv_heads_default=32),
    "qwen3": Architecture(qk_norm=True, head_dim_default=128, kv_heads_default=32),
}

REQUIRED_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One parameter of the model: its name in Hugging Face layout, and its dimensions."""

    name: str
    dims: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """Elements of this tensor."""
        return prod(self.dims)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear projection inside a layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    def tensors(self, prefix: str) -> Iterator[Tensor]:
        """Weight and, where there is one, bias."""
        yield Tensor(name=f"{prefix}{self.name}.weight", dims=(self.outputs, self.inputs))
        if self.bias:
            yield Tensor(name=f"{prefix}{self.name}.bias", dims=(self.outputs,))


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything about a decoder's size that sizing needs."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool

    @property
    def architecture(self) -> Architecture:
        """The row of `ARCHITECTURES` for this model type."""
        return ARCHITECTURES[self.model_type]

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear projections of one layer, under their names inside the layer."""
        return (*self._attention_linears(), *self._mlp_linears())

    def _attention_linears(self) -> tuple[Linear, ...]:
        arch, h, q, kv = self.architecture, self.hidden_size, self.query_size, self.kv_size
        bias = self.attention_bias if arch.qkv_bias is None else arch.qkv_bias
        output_bias = self.attention_bias if arch.output_bias is None else arch.output_bias
        names = {"qkv_proj": q + 2 * kv} if arch.fused else {"q_proj": q, "k_proj": kv, "v_proj": kv}
        inputs = [Linear(name=f"self_attn.{n}", inputs=h, outputs=out, bias=bias) for n, out in names.items()]
        return (*inputs, Linear(name="self_attn.o_proj", inputs=q, outputs=h, bias=output_bias))

    def _mlp_linears(self) -> tuple[Linear, ...]:
        h, f, bias = self.hidden_size, self.intermediate_size, self.mlp_bias
        names = {"gate_up_proj": 2 * f} if self.architecture.fused else {"gate_proj": f, "up_proj": f}
        inputs = [Linear(name=f"mlp.{name}", inputs=h, outputs=out, bias=bias) for name, out in names.items()]
        return (*inputs, Linear(name="mlp.down_proj", inputs=f, outputs=h, bias=bias))

    def _norms(self) -> tuple[Tensor, ...]:
        names = ("input_layernorm", "post_attention_layernorm")
        extra = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
        chosen = (*names, *extra)[: self.architecture.norms_per_layer]
        norms = tuple(Tensor(name=f"{name}.weight", dims=(self.hidden_size,)) for name in chosen)
        if not self.architecture.qk_norm:
            return norms
        heads = (Tensor(name=f"self_attn.{n}_norm.weight", dims=(self.head_dim,)) for n in ("q", "k"))
        return (*norms, *heads)

    def layer_tensors(self, prefix: str = "") -> Iterator[Tensor]:
        """The tensors of one decoder layer."""
        for linear in self.linears:
            yield from linear.tensors(prefix)
        for norm in self._norms():
            yield Tensor(name=prefix + norm.name, dims=norm.dims)

    def tensors(self) -> Iterator[Tensor]:
        """Every parameter of the model; a tied output head is not counted again."""
        yield Tensor(name="model.embed_tokens.weight", dims=(self.vocab_size, self.hidden_size))
        for index in range(self.num_layers):
            yield from self.layer_tensors(f"model.layers.{index}.")
        yield Tensor(name="model.norm.weight", dims=(self.hidden_size,))
        if not self.tied_embeddings:
            yield Tensor(name="lm_head.weight", dims=(self.vocab_size, self.hidden_size))

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        return sum(tensor.num_parameters for tensor in self.layer_tensors())

    @property
    def root_parameters(self) -> int:
        """Parameters outside the layers: embeddings, final norm, output head."""
        heads = 1 if self.tied_embeddings else 2
        return heads * self.vocab_size * self.hidden_size + self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters, to the last one."""
        return self.num_layers * self.layer_parameters + self.root_parameters


def shape_from_config(config: dict[str, Any], where: str = "config.json") -> ModelShape:
    """The shape that a Hugging Face `config.json` describes.

    Args:
        config: The parsed file.
        where: The file's name, for messages.

    Raises:
        JobError: the model type is unknown, or a dimension is missing or not a positive whole number.
    """
    model_type = known_model_type(config, where)
    arch = ARCHITECTURES[model_type]
    size = {key: _dimension(config, key, where) for key in REQUIRED_KEYS}
    heads = size["num_attention_heads"]
    return ModelShape(
        model_type=model_type,
        hidden_size=size["hidden_size"],
        intermediate_size=size["intermediate_size"],
        num_layers=size["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=_optional(config, "num_key_value_heads", arch.kv_heads_default or heads, heads, where),
        head_dim=_head_dim(config, arch, size, where),
        vocab_size=size["vocab_size"],
        tied_embeddings=bool(config.get("tie_word_embeddings", arch.tied_by_default)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(arch.mlp_bias_key and config.get(arch.mlp_bias_key, False)),
    )


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


def known_model_type(config: dict[str, Any], where: str) -> str:
    """The configuration's model type, if it is one that Tuneyard knows.

    Raises:
        JobError: there is none, or it is unknown; the nearest known types are named.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise JobError(f"{where}: has no `model_type`", f"Known types: {', '.join(ARCHITECTURES)}.")
    if model_type not in ARCHITECTURES:
        near = difflib.get_close_matches(model_type, ARCHITECTURES, n=3, cutoff=0.4)
        hint = f"Nearest known types: {', '.join(near)}." if near else f"Known: {', '.join(ARCHITECTURES)}."
        raise JobError(f"{where}: unknown model type {model_type!r}", hint)
    return model_type


def _dimension(config: dict[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise JobError(f"{where}: `{key}` must be a positive whole number (got {value!r})")
    return value


def _optional(config: dict[str, Any], key: str, absent: int, null: int, where: str) -> int:
    """A key that may be absent (the class default counts) or null (then derived)."""
    if key not in config:
        return absent
    return null if config[key] is None else _dimension(config, key, where)


def _head_dim(config: dict[str, Any], arch: Architecture, size: dict[str, int], where: str) -> int:
    derived = size["hidden_size"] // size["num_attention_heads"]
    return _optional(config, "head_dim", arch.head_dim_default or derived, derived, where)


def lora_parameters(shape: ModelShape, *, r: int, target_modules: str | list[str], use_dora: bool = False) -> int:
    """Parameters of LoRA adapters on `target_modules`; DoRA adds one magnitude per output.

    Args:
        shape: The base model.
        r: Rank of the adapters.
        target_modules: As PEFT reads it; see `targeted`.
        use_dora: Whether the adapters are weight-decomposed.

    Raises:
        JobError: a name matches no projection of this model.
    """
    return sum(
        count * (r * (linear.inputs + linear.outputs) + (linear.outputs if use_dora else 0))
        for linear, count in targeted(shape, target_modules)
    )


def targeted(shape: ModelShape, target_modules: str | list[str]) -> list[tuple[Linear, int]]:
    """The projections that get adapters, each with how often it occurs in the model.

    `all-linear` is every projection but the output head. A list holds names such as `q_proj`. Any other text
    is a regular expression over whole module names, as in PEFT.

    Raises:
        JobError: a name matches no projection of this model.
    """
    known = _adaptable(shape)
    if target_modules == "all-linear":
        return known[: len(shape.linears)]
    if isinstance(target_modules, str):
        return _matching(known, target_modules)
    return [_named(known, name, shape.model_type) for name in target_modules]


def _adaptable(shape: ModelShape) -> list[tuple[Linear, int]]:
    """Projections of the layers, the output head, and the embeddings, which LoRA can adapt as well."""
    h, vocabulary = shape.hidden_size, shape.vocab_size
    root = [
        Linear(name="lm_head", inputs=h, outputs=vocabulary, bias=False),
        Linear(name="embed_tokens", inputs=vocabulary, outputs=h, bias=False),
    ]
    return [*((linear, shape.num_layers) for linear in shape.linears), *((linear, 1) for linear in root)]


def _matching(known: list[tuple[Linear, int]], pattern: str) -> list[tuple[Linear, int]]:
    try:
        found = [entry for entry in known if re.fullmatch(pattern, _full_name(entry[0]))]
    except re.error as error:
        raise JobError(f"not a regular expression: {error}", "Write a list of names, or all-linear.") from error
    if not found:
        raise JobError("text is a regular expression over whole module names, and none matches", f"Write [{pattern}].")
    return found


def _full_name(linear: Linear) -> str:
    if linear.name == "lm_head":
        return linear.name
    return f"model.{linear.name}" if linear.name == "embed_tokens" else f"model.layers.0.{linear.name}"


def _named(known: list[tuple[Linear, int]], name: str, model_type: str) -> tuple[Linear, int]:
    for linear, count in known:
        if linear.name == name or linear.name.endswith(f".{name}"):
            return linear, count
    names = [linear.name.rsplit(".", 1)[-1] for linear, _ in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise JobError(f"{model_type} has no projection {name!r}", f"{hint}Known: {', '.join(names)}, or all-linear.")
