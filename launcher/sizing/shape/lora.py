"""Which projections get adapters, and how many parameters that makes."""

from __future__ import annotations

import difflib
import re

from launcher.errors import JobError
from launcher.sizing.shape import experts
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
        count
        * linear.copies
        * (linear.ranks * r * (linear.inputs + linear.outputs) + (linear.outputs if use_dora else 0))
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

    `all-linear` is every projection but the output head; of experts, which Transformers keeps in stacked parameters,
    those of the families in `launcher.sizing.shape.experts`. A list holds names such as `q_proj`. Any other text is a
    regular expression over whole module names, as in PEFT.

    Raises:
        JobError: a name matches no projection of this model.
    """
    known = _adaptable(shape)
    if target_modules == "all-linear":
        plain = known[:-2]
    elif isinstance(target_modules, str):
        plain = _matching(shape, known, target_modules)
    else:
        names = experts.names_of(shape)
        usual = [name for name in target_modules if name.rpartition(".")[2] not in names]
        plain = [entry for name in usual for entry in _named(known, name, shape.model_type)]
    if not experts.are_converted(shape):
        return [(linear, count) for linear, count in plain if not experts.is_hidden(linear)]
    wanted = {linear.name.rpartition(".")[2] for linear, _ in plain if not linear.is_expert}
    if isinstance(target_modules, list):
        wanted |= {name.rpartition(".")[2] for name in target_modules}
    elif target_modules == "all-linear":
        wanted |= experts.names_of(shape)
    else:
        wanted |= {linear.name.rpartition(".")[2] for linear, _ in plain}
    hidden = experts.names_of(shape)
    kept = [(line, count) for line, count in plain if not (line.is_expert or line.name.rpartition(".")[2] in hidden)]
    return kept + experts.adapted(shape, wanted)


def refused_adapters(
    shape: ModelShape, chosen: list[tuple[Linear, int]], *, dropout: bool, dora: bool
) -> tuple[str, str, str] | None:
    """The setting of `method` that these projections cannot have, why, and what to do; None when all is well."""
    names = {linear.name for linear, _ in chosen}
    if "lm_head" in names:
        why = "the loss reads the output head's weight whole, and an adapter beside it would not be learnt"
        return "target_modules", why, "Take lm_head out, or train it whole: `modules_to_save: [lm_head]`."
    if "embed_tokens" in names and shape.tied_embeddings:
        why = "the embeddings are the output head as well, and an adapter would change only one of them"
        return "target_modules", why, "Take embed_tokens out, or choose a model whose embeddings are its own."
    stacked = any(linear.is_expert for linear, _ in chosen)
    if stacked and (dropout or dora):
        setting = "lora_dropout" if dropout else "use_dora"
        return setting, "adapters of stacked experts have none", f"Remove {setting}, or list attention's projections."
    return None


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
