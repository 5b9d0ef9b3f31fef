"""Dimensions of the models that published measurements name: the launcher's catalogue, and what it does not hold."""

from __future__ import annotations

from launcher.sizing.shape import find_model, shape_by_name, shape_by_size, size_in_name
from launcher.sizing.speed.work import Work, work_of

TABLE = """
mpt-125m 12 768 12 12 64 3072 50368
mpt-350m 24 1024 16 16 64 4096 50368
mpt-760m 24 1536 12 12 128 6144 50368
gpt3-5b 24 4096 32 32 128 16384 51200
gpt3-20b 44 6144 48 48 128 24576 51200
gpt3-175b 96 12288 96 96 128 49152 51200
nemotron-340b 96 18432 96 8 192 73728 256000
"""
"""Layers, hidden size, heads, key-value heads, head size, MLP width, vocabulary: models without a gate that are only
trained from scratch, from their publications."""
UNMODELLED = {"granite-4.0-tiny-preview": "state-space layers are not modelled"}


def _work(cells: list[str]) -> tuple[str, Work]:
    layers, hidden, heads, kv_heads, size, ffn, vocab = (int(cell) for cell in cells[1:])
    query, kv = heads * size, kv_heads * size
    dims = {"layers": layers, "hidden": hidden, "heads": heads, "query": query, "kv": kv, "ffn": ffn, "vocab": vocab}
    return cells[0], Work(**dims, gated=False, rotary=False, tied=cells[0].startswith(("mpt", "gpt3")))


WORKS = dict(_work(line.split()) for line in TABLE.strip().splitlines())


def work_named(name: str, parameters: float) -> Work | None:
    """The dimensions of a model by name; without a known name, a Llama-like decoder of as many parameters."""
    if name.strip().lower() in WORKS:
        return WORKS[name.strip().lower()]
    if find_model(name):
        return work_of(shape_by_name(name))
    size = int(parameters) or size_in_name(name)
    return work_of(shape_by_size(size, name)) if size else None
