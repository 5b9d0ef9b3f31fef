"""Shapes of published models by name, however the name is written."""

from __future__ import annotations

import difflib
import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.sizing.shape.config import shape_from_config
from launcher.sizing.shape.model import ModelShape

CATALOGUE = Path(__file__).with_name("catalogue.json")
COLUMNS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
NOISE = {
    *("instruct", "chat", "it", "hf", "base", "pretrained", "meta", "bf16", "fp16", "fp8", "awq", "gptq", "int4"),
    *("int8", "4bit", "8bit", "bnb", "unsloth", "mlx", "gguf", "inst", "preview", "beta", "dev", "nf4", "w4a16"),
    *("tokyotech", "thinking", "dpo", "sft", "hqq", "deduped", "dynamic", "model", "v1", "v1.0", "v2.0"),
}
"""Words of a name that do not change the shape."""
DATE = re.compile(r"(20)?2\d(0[1-9]|1[0-2])(\d\d)?|\d+t|\d+k")


@functools.cache
def _tables() -> tuple[dict[str, list[Any]], dict[str, str]]:
    data = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return data["models"], data["aliases"]


def model_names() -> list[str]:
    """Names of all models in the catalogue."""
    return list(_tables()[0])


def canonical(name: str) -> str:
    """A name in the catalogue's spelling: `meta-llama/Llama 3.1-8B-Instruct` is `llama-3.1-8b`.

    A publisher before the slash, dates, and words for tuning or quantisation go; sizes and versions stay.
    """
    text = re.sub(r"\(.*?\)", "", name.strip().rstrip("/").rsplit("/", 1)[-1]).lower()
    text = re.sub(r"\b(llama|qwen|gemma|phi|yi|olmo|granite)[ _-]?(?=\d)", r"\1-", text)
    text = re.sub(r"\b(qwen)-(?=[1-9](\.\d+)?(-|_| |$))", r"\1", text)
    text = re.sub(r"(?<=\d)p(?=\d)", ".", text)
    words = [w for w in re.split(r"[\s_-]+", text) if w and w not in NOISE and not DATE.fullmatch(w)]
    return "-".join(words)


@functools.cache
def _index() -> dict[str, str]:
    """Model by every spelling of its names, with and without punctuation; the fullest spelling wins."""
    models, aliases = _tables()
    names = {name: aliases.get(name, name) for name in [*models, *aliases]}
    spellings = [{re.sub(r"[-.]", "", canonical(n)): m for n, m in names.items()}]
    spellings += [{canonical(n): m for n, m in names.items()}, names]
    return {spelling: model for table in spellings for spelling, model in table.items()}


def find_model(name: str) -> str | None:
    """The catalogue's name for a model, or `None`. Never a model of another size."""
    text = canonical(name)
    plain = re.sub(r"-v\d(\.\d)?$", "", text)
    tries = (name.lower(), text, plain, re.sub(r"[-.]", "", text), re.sub(r"[-.]", "", plain))
    return next((_index()[spelling] for spelling in tries if spelling in _index()), None)


def shape_by_name(name: str) -> ModelShape:
    """The shape of a model of the catalogue.

    Raises:
        JobError: no model has this name; the nearest names are given.
    """
    found = find_model(name)
    if found is None:
        near = difflib.get_close_matches(canonical(name), [*_tables()[0], *_tables()[1]], n=3, cutoff=0.5)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise JobError(f"no model called {name!r} is in the catalogue", f"{hint}Or give the path of its config.json.")
    return _built(found)


@functools.cache
def _built(found: str) -> ModelShape:
    return shape_from_config(config_by_name(found), f"catalogue: {found}", name=found)


def config_by_name(found: str) -> dict[str, Any]:
    """The configuration of a model of the catalogue, as its `config.json` has it."""
    row = _tables()[0][found]
    more = row[len(COLUMNS)] if len(row) > len(COLUMNS) else {}
    return dict(zip(COLUMNS, row, strict=False)) | more


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])\b", re.I)


def size_in_name(name: str) -> int:
    """Parameters that a name tells, such as 7e9 for `GPT-7B`; 0 if it tells none."""
    found = SIZE.search(name.replace("_", " ").replace("-", " "))
    return int(float(found[1]) * (1e9 if found[2].lower() == "b" else 1e6)) if found else 0


def shape_by_size(parameters: int, name: str = "") -> ModelShape:
    """A Llama-like shape with about so many parameters, for models whose shape is nowhere to be read.

    The nearest Llama's proportions are kept and its number of layers is fitted.
    """
    ladder = ("smollm2-135m", "smollm2-360m", "tinyllama-1.1b", "open-llama-3b", "llama-2-7b", "llama-2-13b")
    shapes = [_built(n) for n in (*ladder, "yi-34b", "llama-2-70b", "llama-3.1-405b")]
    nearest = min(shapes, key=lambda s: abs(s.num_parameters / parameters - 1) + (s.num_parameters > 2 * parameters))
    config = config_by_name(nearest.name)
    layers = max(1, round((parameters - nearest.root_parameters) / nearest.layer_parameters))
    shape = shape_from_config(config | {"num_hidden_layers": layers}, "a shape by size", name=name)
    return replace(shape, notes=(f"shape guessed from {parameters / 1e9:.2f}e9 parameters",))
