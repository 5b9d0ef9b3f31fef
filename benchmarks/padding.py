"""Packed against padded training of the same conversations: `python -m benchmarks.padding [--json]`.

Both sides train the same model on the same conversations in the same process, in turns. The padded side is what a
plain Transformers loop does: rows of a batch padded to the longest, loss over all logits. The packed side is the
trainer's own path. The answer is a ratio of supervised tokens per second, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from trainer.data.pack.batch import Reduction, collate
from trainer.data.pack.packing import pack
from trainer.data.shards.shard import ROW
from trainer.model.attention.packed_attention import NAME
from trainer.model.loss.cross_entropy import HeadSettings
from trainer.model.supervised import SupervisedModel

VOCABULARY = 32_000
CAPACITY = 2048
CONVERSATIONS = 32
ROWS_PER_BATCH = 8
ROUNDS = 3


class Conversations:
    """Random tokens of lognormal lengths, the last third of each supervised."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        lengths = np.clip(rng.lognormal(np.log(180), 0.9, count).astype(np.int64) + 2, 8, CAPACITY)
        self._tokens = [rng.integers(0, VOCABULARY, n).astype(np.uint32) for n in lengths]
        self.rows = np.zeros(count, ROW)
        self.rows["length"], self.rows["weight"] = lengths, 1.0
        self.rows["targets"] = [int(self._mask(n).sum()) for n in lengths]

    @staticmethod
    def _mask(length: int) -> np.ndarray:
        return (np.arange(length) >= length - length // 3).astype(np.uint8)

    def conversation(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask, as `TokenStore` gives them."""
        return self._tokens[number], self._mask(len(self._tokens[number]))


def build(attention: str) -> Any:
    """A Llama of some 20 million parameters; the same weights for both sides."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CAPACITY,
    )
    return AutoModelForCausalLM.from_config(shape, attn_implementation=attention, dtype=torch.float32)


def packed_pass(model: SupervisedModel, store: Any) -> None:
    """Forward and backward over all conversations, packed."""
    reduction = Reduction(store, "token")
    packs = pack(store.rows["length"], CAPACITY, 0, 0)
    for number in range(len(packs)):
        model(collate(store, [int(n) for n in packs[number]], reduction)).backward()


def padded_pass(model: Any, store: Any) -> None:
    """Forward and backward over all conversations, in padded batches."""
    order = np.random.default_rng(1).permutation(len(store.rows))
    for start in range(0, len(order), ROWS_PER_BATCH):
        rows = [store.conversation(int(n)) for n in order[start : start + ROWS_PER_BATCH]]
        longest = max(len(tokens) for tokens, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        attention = torch.zeros_like(ids)
        for at, (tokens, mask) in enumerate(rows):
            flat = torch.from_numpy(tokens.astype(np.int64))
            ids[at, : len(flat)] = flat
            attention[at, : len(flat)] = 1
            labels[at, : len(flat)] = torch.where(torch.from_numpy(mask.astype(bool)), flat, -100)
        model(input_ids=ids, attention_mask=attention, labels=labels).loss.backward()


def seconds_of(work: Callable[[], None], model: torch.nn.Module) -> float:
    """Seconds of one pass, gradients cleared outside of it."""
    model.zero_grad()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure() -> dict[str, Any]:
    """Both sides in turns; medians."""
    store: Any = Conversations(CONVERSATIONS)
    plain, own = build("sdpa"), SupervisedModel(build(NAME), "padded", HeadSettings())
    times = SimpleNamespace(packed=[], padded=[])
    for _ in range(ROUNDS):
        times.padded.append(seconds_of(lambda: padded_pass(plain, store), plain))
        times.packed.append(seconds_of(lambda: packed_pass(own, store), own))
    packed, padded = statistics.median(times.packed), statistics.median(times.padded)
    targets = int(store.rows["targets"].sum())
    return {
        "conversations": CONVERSATIONS,
        "supervised_tokens": targets,
        "packed_tokens_per_second": targets / packed,
        "padded_tokens_per_second": targets / padded,
        "packed_over_padded": padded / packed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    result = measure()
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"packed {result['packed_tokens_per_second']:,.0f}, padded {result['padded_tokens_per_second']:,.0f} "
            f"supervised tokens per second: {result['packed_over_padded']:.2f} times"
        )


if __name__ == "__main__":
    main()
