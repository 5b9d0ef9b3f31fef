"""Which projections get adapters, and how many parameters that makes."""

from __future__ import annotations

import difflib
import re

from launcher.errors import JobError
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Linear

Targets = str | list[str]


def lora_parameters(
    shape: ModelShape, *, r: int, target_modules: Targets, use_dora: bool = False, bias: str = "none"
) -> int:
    """Parameters of LoRA adapters on `target_modules`; DoRA adds one magnitude per output.

    Hu et al. 2021 (LoRA, arXiv 2106.09685): A is [r, inputs], B is [outputs, r].

    Args:
        shape: The base model.
        r: Rank of the adapters.
        target_modules: As PEFT reads it; see `targeted`.
        use_dora: Whether the adapters are weight-decomposed.
        bias: Which biases of the base train: `none`, `lora_only` (of adapted projections) or `all`.

    Raises:
        JobError: a name matches no projection of this model.
    """
    chosen = targeted(shape, target_modules)
    adapters = sum(
        count * linear.copies * (r * (linear.inputs + linear.outputs) + (linear.outputs if use_dora else 0))
        for linear, count in chosen
    )
    return adapters + _biases(shape, chosen, bias)


def _biases(shape: ModelShape, chosen: list[tuple[Linear, int]], which: str) -> int:
    if which == "none":
        return 0
    if which == "all":
        return sum(tensor.num_parameters for tensor in shape.tensors() if tensor.name.endswith(".bias"))
    return sum(count * linear.outputs * linear.copies for linear, count in chosen if linear.bias)


def targeted(shape: ModelShape, target_modules: Targets) -> list[tuple[Linear, int]]:
    """The projections that get adapters, each with the number of layers that have it.

    `all-linear` is every projection but the output head, and but experts and their router, which Transformers
    keeps in stacked parameters that PEFT does not see as linear layers. A list holds names such as `q_proj`. Any
    other text is a regular expression over whole module names, as in PEFT.

    Raises:
        JobError: a name matches no projection of this model.
    """
    known = _adaptable(shape)
    if target_modules == "all-linear":
        routers = ("mlp.gate", "block_sparse_moe.gate", "mlp.router")
        return [(linear, count) for linear, count in known[:-2] if not (linear.is_expert or linear.name in routers)]
    if isinstance(target_modules, str):
        return _matching(shape, known, target_modules)
    return [entry for name in target_modules for entry in _named(known, name, shape.model_type)]


def _adaptable(shape: ModelShape) -> list[tuple[Linear, int]]:
    """Projections of the layers, the output head, and the embeddings, which LoRA can adapt as well."""
    h, vocabulary = shape.hidden_size, shape.vocab_size
    root = [
        Linear(name="lm_head", inputs=h, outputs=vocabulary),
        Linear(name="embed_tokens", inputs=vocabulary, outputs=h),
    ]
    return [*shape.linear_counts(), *((linear, 1) for linear in root)]


def _matching(shape: ModelShape, known: list[tuple[Linear, int]], pattern: str) -> list[tuple[Linear, int]]:
    try:
        found = [entry for entry in known if re.fullmatch(pattern, _full_name(shape, entry[0]))]
    except re.error as error:
        raise JobError(f"not a regular expression: {error}", "Write a list of names, or all-linear.") from error
    if not found:
        raise JobError("text is a regular expression over whole module names, and none matches", f"Write [{pattern}].")
    return found


def _full_name(shape: ModelShape, linear: Linear) -> str:
    if linear.name == "lm_head":
        return linear.name
    if linear.name == "embed_tokens":
        return f"model.{linear.name}"
    return shape.layer_prefix.format(0) + linear.name.replace("*", "0")


def _named(known: list[tuple[Linear, int]], name: str, model_type: str) -> list[tuple[Linear, int]]:
    found = [entry for entry in known if entry[0].name == name or entry[0].name.endswith(f".{name}")]
    if found:
        return found
    names = list(dict.fromkeys(linear.name.rsplit(".", 1)[-1] for linear, _ in known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise JobError(f"{model_type} has no projection {name!r}", f"{hint}Known: {', '.join(names)}, or all-linear.")
