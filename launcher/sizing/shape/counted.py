"""The shape of an architecture that nobody described: its tensors are counted, its widths are read where they stand.

Tensors come from complete safetensors files, else from the model's own code in Transformers, built without memory on
torch's meta device in a process of its own. Totals are exact; what a layer keeps for its backward pass is taken as in a
Llama of the same widths, and verdicts allow for that (`launcher.sizing.memory.limits`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.sizing.shape.config import ALIASES, FFN_KEYS, KV_KEYS, is_described, read_config, shape_from_config
from launcher.sizing.shape.headers import files_of, read_headers
from launcher.sizing.shape.meta import ask_transformers, has_code
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Layer, Linear, Tensor
from rundir.errors import TuneyardError

LAYER = re.compile(r"^(.*?\.)(\d+)\.(.+)$")
EXPERT = re.compile(r"(expert\w*\.)\d+\.")
HEADS_KEYS = (*ALIASES["num_attention_heads"], "num_heads", "attention_heads")
EXPERTS_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
USUAL_HEAD = 128
HEADERS_DO = "Or put all its safetensors files into the folder: their headers are enough."
Dims = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Tensors of a model by name.

    Attributes:
        source: Where they were counted, in words.
        linears: Modules that are linear projections; empty where only names tell.
    """

    source: str
    tensors: dict[str, Dims]
    linears: frozenset[str] = field(default_factory=frozenset)

    def is_linear(self, name: str, dims: Dims) -> bool:
        """Whether a tensor is the weight of a projection, or of stacked experts."""
        if len(dims) == 3:
            return ("expert" in name or "moe" in name) and not name.endswith("bias")
        if len(dims) != 2 or name.endswith("bias"):
            return False
        return name.removesuffix(".weight") in self.linears if self.linears else name.endswith("weight")


def shape_of_folder(folder: Path, where: str = "") -> ModelShape:
    """The shape of a model that lies in a folder: from its configuration, or else counted.

    Args:
        folder: Holds its config.json.
        where: Name of that file for messages; by default its path.

    Raises:
        JobError: the architecture is unknown, and its tensors cannot be counted.
    """
    config, where = read_config(folder / "config.json"), where or str(folder / "config.json")
    if not is_described(config):
        return shape_of_tensors(config, counted(folder, config, where))
    try:
        return shape_from_config(config, where)
    except JobError as problem:  # written by a release that calls things otherwise: the model itself can tell
        try:
            return shape_of_tensors(config, counted(folder, config, where))
        except (TuneyardError, AssertionError):
            raise problem from None


def counted(folder: Path, config: dict[str, Any], where: str) -> Counted:
    """The tensors of a model: from its files where they are all there and not packed, else from Transformers.

    Raises:
        JobError: neither is possible; the nearest known architecture is named.
    """
    files = [] if config.get("quantization_config") else files_of(folder)
    if files:
        return Counted(source="safetensors headers", tensors=_untied(config, read_headers(files)))
    try:
        answer = ask_transformers(folder)
    except TuneyardError as why:
        raise _unusable(config, where, why, "cannot be counted", HEADERS_DO) from why
    tensors = {name: tuple(dims) for name, dims in answer["tensors"].items()}
    return Counted(source="the meta device", tensors=tensors, linears=frozenset(answer["linears"]))


def _unusable(config: dict[str, Any], where: str, why: TuneyardError, trouble: str, otherwise: str) -> JobError:
    try:
        shape_from_config(config, where)
    except JobError as unknown:
        return type(unknown)(
            f"{unknown.message}, and it {trouble}: {why.message}",
            f"{unknown.remedy} {why.remedy} {otherwise}".replace("  ", " "),
        )
    raise AssertionError("only models that are not described are counted")


def require_code(folder: Path, where: str) -> None:
    """A model that could be counted must also have code that can train it, its own or that of Transformers here.

    Raises:
        JobError: it has none; the nearest known architecture is named.
    """
    config = read_config(folder / "config.json")
    if is_described(config) or "auto_map" in config or has_code(str(config.get("model_type"))) is not False:
        return
    try:
        ask_transformers(folder)
    except JobError as why:
        raise _unusable(config, where, why, "has no code here", "Or update Transformers.") from why


def _untied(config: dict[str, Any], tensors: dict[str, Dims]) -> dict[str, Dims]:
    """Without an output head that repeats the embeddings in the files."""
    inner = config.get("text_config") or {}
    if not (config.get("tie_word_embeddings") or inner.get("tie_word_embeddings")):
        return tensors
    return {name: dims for name, dims in tensors.items() if not name.endswith("lm_head.weight")}


def shape_of_tensors(config: dict[str, Any], found: Counted) -> ModelShape:
    """A shape whose layers are what was counted; widths come from the configuration's usual keys, else from tensors.

    Raises:
        JobError: there are no numbered layers, or no embeddings.
    """
    whole, config = config, config.get("text_config") or config
    per_token = _first(config, EXPERTS_KEYS) or 0
    layers, root, prefix = _layers(found, max(1, per_token))
    vocab, hidden = _embedding(config, root)
    heads = _first(config, HEADS_KEYS) or max(1, hidden // USUAL_HEAD)
    layer, ffn = max(layers, key=lambda one: one.num_parameters), _first(config, FFN_KEYS) or 4 * hidden
    experts = [linear for linear in layer.linears if linear.is_expert]
    norms = [o for o in layer.others if o.dims == (hidden,) and o.name.endswith("weight")]
    has_bias = any(o.name.endswith("bias") and re.search(r"norm|ln", o.name) for o in (*layer.others, *root))
    shape = ModelShape(
        model_type=str(whole.get("model_type")),
        hidden_size=hidden,
        intermediate_size=_first(config, ("moe_intermediate_size",)) or ffn,
        num_layers=len(layers),
        num_heads=heads,
        num_kv_heads=_first(config, KV_KEYS) or heads,
        head_dim=_first(config, ("head_dim",)) or max(1, hidden // heads),
        vocab_size=vocab,
        tied_embeddings=sum(tensor.dims == (vocab, hidden) for tensor in root) < 2,
        layers=tuple(layers),
        root=tuple(root),
        layer_prefix=prefix + "{}.",
        gated_mlp=_is_gated(layer, hidden),
        rms_norm=not has_bias,
        norms_per_layer=max(1, len(norms)),
        experts_per_token=per_token if experts else 0,
        num_experts=max((linear.copies for linear in experts), default=0),
        parallel_residual=len(norms) == 1,
        attention_bias=any(linear.bias and "att" in linear.name for linear in layer.linears),
        counted=found.source,
        notes=tuple(_notes(whole, config, found)),
    )
    assert shape.num_parameters == sum(map(prod, found.tensors.values()))
    return shape


def _notes(whole: dict[str, Any], config: dict[str, Any], found: Counted) -> list[str]:
    kind = whole.get("model_type")
    notes = [f"architecture {kind} unknown: parameters counted from {found.source}, activations as in a Llama"]
    if not _first(config, HEADS_KEYS):
        notes.append(f"its configuration names no attention heads: {USUAL_HEAD} wide each assumed")
    return notes


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first of some settings that is a positive number, or the largest of one that has a number per layer."""
    for name in names:
        value = config.get(name)
        value = max(value, default=0) if isinstance(value, list) and all(isinstance(v, int) for v in value) else value
        if isinstance(value, int) and value > 0:
            return int(value)
    return 0


def _embedding(config: dict[str, Any], root: list[Tensor]) -> tuple[int, int]:
    """Vocabulary and hidden size: of the largest matrix outside the layers, which the embeddings are.

    Raises:
        JobError: there is none.
    """
    matrices = [tensor.dims for tensor in root if len(tensor.dims) == 2]
    if not matrices:
        raise JobError("no embeddings were found outside the model's layers", "Is it a causal language model?")
    largest = max(matrices, key=prod)
    vocab, hidden = _first(config, ALIASES["vocab_size"]), _first(config, ALIASES["hidden_size"])
    return vocab or largest[0], hidden or largest[1]


def _is_gated(layer: Layer, hidden: int) -> bool:
    """Whether the MLP has a gate: what is widened is twice what is narrowed."""
    mlp = [linear for linear in layer.linears if not re.search("att|mixer|router", linear.name)]
    down = sum(linear.inputs for linear in mlp if linear.outputs == hidden)
    return sum(linear.outputs for linear in mlp if linear.inputs == hidden) > 1.5 * down if down else True


def _layers(found: Counted, per_token: int) -> tuple[list[Layer], list[Tensor], str]:
    """Layers, what is outside them, and their prefix: the numbered prefix with most parameters.

    Raises:
        JobError: nothing is numbered.
    """
    groups: dict[str, dict[int, dict[str, Dims]]] = defaultdict(lambda: defaultdict(dict))
    for name, dims in found.tensors.items():
        if match := LAYER.match(name):
            groups[match[1]][int(match[2])][match[3]] = dims
    if not groups:
        raise JobError("no numbered layers were found in the model", "Is it a causal language model?")
    prefix = max(groups, key=lambda p: sum(prod(dims) for layer in groups[p].values() for dims in layer.values()))
    root = [
        Tensor(name=name, dims=dims)
        for name, dims in found.tensors.items()
        if not ((match := LAYER.match(name)) and match[1] == prefix)
    ]
    same: dict[Layer, Layer] = {}
    layers = [_layer(groups[prefix][i], found, f"{prefix}{i}.", per_token) for i in sorted(groups[prefix])]
    return [same.setdefault(layer, layer) for layer in layers], root, prefix


def _layer(parts: dict[str, Dims], found: Counted, prefix: str, per_token: int) -> Layer:
    """Matrices are projections, stacks of matrices or numbered ones are experts, the rest are other tensors."""
    copies: dict[tuple[str, Dims, bool], int] = defaultdict(int)
    for name, dims in parts.items():
        copies[EXPERT.sub(r"\1*.", name), dims, found.is_linear(prefix + name, dims)] += 1
    linears = {
        name.removesuffix(".weight"): _linear(name.removesuffix(".weight"), dims, count, per_token)
        for (name, dims, is_linear), count in copies.items()
        if is_linear
    }
    others: list[Tensor] = []
    for (name, dims, is_linear), count in copies.items():
        owner = linears.get(name.removesuffix(".bias"))
        if owner and dims == (owner.outputs,) and count == owner.copies and name.endswith(".bias"):
            linears[owner.name] = _linear(owner.name, (owner.outputs, owner.inputs), count, per_token, bias=True)
        elif not is_linear:
            others += [Tensor(name=name, dims=dims)] * count
    return Layer(linears=tuple(linears.values()), others=tuple(others))


def _linear(name: str, dims: Dims, count: int, per_token: int, bias: bool = False) -> Linear:
    copies, (outputs, inputs) = (count, dims) if len(dims) == 2 else (dims[0], (dims[1], dims[2]))
    active = min(copies, per_token)
    return Linear(name=name, inputs=inputs, outputs=outputs, bias=bias, copies=copies, active=active)
