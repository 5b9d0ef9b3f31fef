"""The shape of an architecture that nobody described: counted from the headers of its safetensors files.

A safetensors file starts with the length of a JSON header (8 bytes, little-endian) that names every tensor with its
dimensions, so that gigabytes of weights are counted by reading kilobytes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.sizing.shape.config import ALIASES, FFN_KEYS, KV_KEYS, read_config, shape_from_config
from launcher.sizing.shape.families import ARCHITECTURES
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Layer, Linear, Tensor

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
"""The format's own limit."""
LAYER = re.compile(r"^(.*?\.)(\d+)\.(.+)$")
EXPERT = re.compile(r"\.(\d+)\.")


def shape_of_folder(folder: Path) -> ModelShape:
    """The shape of a model that lies in a folder: from its configuration, or else from its weights' headers.

    Raises:
        JobError: the architecture is unknown and there are no safetensors to count, or no dimensions to go by.
    """
    config = read_config(folder / "config.json")
    try:
        return shape_from_config(config, str(folder / "config.json"))
    except JobError as unknown:
        if config.get("model_type") in ARCHITECTURES or not any(folder.glob("*.safetensors")):
            raise
        tensors = read_headers(folder)
        return _counted(config.get("text_config") or config, tensors, unknown)


def read_headers(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and dimensions of all tensors in a folder's safetensors files.

    Raises:
        JobError: a file is cut short or is no safetensors file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        header = read_header(path)
        found |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return found


def read_header(path: Path) -> dict[str, Any]:
    """The header of one safetensors file.

    Raises:
        JobError: it is cut short or is no safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        text = file.read(length) if 0 < length < LARGEST_HEADER else b""
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise JobError(f"{path}: no safetensors file, or cut short", "Download the model again.") from error


def _counted(config: dict[str, Any], tensors: dict[str, tuple[int, ...]], unknown: JobError) -> ModelShape:
    """A shape whose layers are what the headers hold; widths come from the configuration's usual keys."""
    size = {key: next((config[n] for n in names if config.get(n)), 0) for key, names in ALIASES.items()}
    if not all(size.values()):
        missing = ", ".join(key for key, value in size.items() if not value)
        raise JobError(f"{unknown.message}; its configuration has no {missing} either", unknown.remedy)
    layers, root = _layers(tensors)
    heads = size["num_attention_heads"]
    ffn = next((config[key] for key in FFN_KEYS if config.get(key)), 4 * size["hidden_size"])
    return ModelShape(
        model_type=str(config.get("model_type")),
        hidden_size=size["hidden_size"],
        intermediate_size=config.get("moe_intermediate_size") or ffn,
        num_layers=len(layers),
        num_heads=heads,
        num_kv_heads=next((config[key] for key in KV_KEYS if config.get(key)), heads),
        head_dim=config.get("head_dim") or size["hidden_size"] // heads,
        vocab_size=size["vocab_size"],
        tied_embeddings=not any("lm_head" in tensor.name for tensor in root),
        layers=tuple(layers),
        root=tuple(root),
        experts_per_token=config.get("num_experts_per_tok") or 0,
        num_experts=max((linear.copies for linear in layers[-1].linears), default=0) if layers[-1].has_experts else 0,
        notes=("architecture unknown: parameters counted from safetensors headers, activations as in a Llama",),
    )


def _layers(tensors: dict[str, tuple[int, ...]]) -> tuple[list[Layer], list[Tensor]]:
    """Tensors by layer number, and those outside; a stack of layers is the numbered prefix with most parameters."""
    groups: dict[str, dict[int, dict[str, tuple[int, ...]]]] = defaultdict(lambda: defaultdict(dict))
    for name, dims in tensors.items():
        if found := LAYER.match(name):
            groups[found[1]][int(found[2])][found[3]] = dims
    if not groups:
        raise JobError("the safetensors headers name no numbered layers")
    prefix = max(groups, key=lambda p: sum(len(layer) for layer in groups[p].values()))
    root = [Tensor(name=name, dims=dims) for name, dims in tensors.items() if not name.startswith(prefix)]
    return [_layer(groups[prefix][index]) for index in sorted(groups[prefix])], root


def _layer(parts: dict[str, tuple[int, ...]]) -> Layer:
    """Matrices are projections, stacks of matrices or numbered ones are experts, the rest are other tensors."""
    copies: dict[tuple[str, tuple[int, ...]], int] = defaultdict(int)
    for name, dims in parts.items():
        copies[EXPERT.sub(".*.", name), dims] += 1
    linears, others = [], []
    for (name, dims), count in copies.items():
        plain = name.removesuffix(".weight")
        if len(dims) == 2:
            linears.append(Linear(name=plain, inputs=dims[1], outputs=dims[0], copies=count))
        elif len(dims) == 3:
            linears.append(Linear(name=plain, inputs=dims[1], outputs=dims[2], copies=dims[0]))
        else:
            others += [Tensor(name=name, dims=dims)] * count
    return Layer(linears=tuple(linears), others=tuple(others))
