"""How much data a job has: conversations, tokens, lengths, and the number of packs they fill."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

PACK_FILL = 0.98
"""Assumed share of a pack that conversations fill when their lengths are unknown."""


@dataclass(frozen=True, kw_only=True)
class DatasetSize:
    """The size of a job's training data, for one epoch.

    Attributes:
        rows: Number of conversations.
        tokens: Number of tokens in them.
        source: What counted them, or how they were estimated; shown to the user.
        lengths: Conversation length in tokens to number of sampled conversations; empty when unknown.
        is_exact: Whether a tokenizer counted the tokens; False for an estimate.
    """

    rows: float
    tokens: float
    source: str
    lengths: Mapping[int, int]
    is_exact: bool

    @property
    def is_known(self) -> bool:
        """Whether the number of tokens is known."""
        return self.tokens > 0

    @property
    def mean(self) -> float:
        """Mean tokens per conversation; 0 when there are no rows."""
        return self.tokens / self.rows if self.rows else 0.0

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sampled conversation; 0 when unknown."""
        return max(self.lengths, default=0)

    def packs(self, length: int, packing: bool = True) -> int:
        """Return the number of packs in one epoch.

        Args:
            length: Most tokens in a pack.
            packing: Whether conversations share packs; if not, each is a pack of its own.
        """
        if not packing:
            return round(self.rows)
        if not self.lengths:
            return math.ceil(self.tokens / (length * PACK_FILL))
        sampled_tokens = sum(tokens * count for tokens, count in self.lengths.items())
        tokens_per_pack = sampled_tokens / num_packs(self.lengths, length)
        return max(1, math.ceil(self.tokens / tokens_per_pack - 1e-6)) if self.tokens else 0


def num_packs(lengths: Mapping[int, int], capacity: int) -> int:
    """Return how many packs the trainer makes of conversations with these lengths.

    Greedy as in the trainer: into each pack goes the longest conversation that still fits. Unlike the trainer, which
    packs window by window, this takes all conversations together.

    Args:
        lengths: Conversation length in tokens to number of conversations.
        capacity: Most tokens in a pack.
    """
    counts = {length: count for length, count in lengths.items() if count > 0}
    remaining_lengths = sorted(counts)
    packs = 0
    while remaining_lengths:
        pack = _next_pack(remaining_lengths, counts, capacity)
        repeats = min(counts[length] // taken for length, taken in pack)
        packs += repeats
        for length, taken in pack:
            counts[length] -= taken * repeats
            if not counts[length]:
                del remaining_lengths[bisect_left(remaining_lengths, length)]
    return packs


def _next_pack(lengths: list[int], counts: Mapping[int, int], capacity: int) -> list[tuple[int, int]]:
    """Return the content of the next pack, longest conversations first, as (length, number of conversations)."""
    room, end, pack = capacity, len(lengths), list[tuple[int, int]]()
    while end:
        length = lengths[end - 1]
        taken = min(counts[length], room // length) or 1
        pack.append((length, taken))
        room -= taken * length
        end = min(bisect_right(lengths, room), end - 1)
    return pack


def unknown_size(reason: str = "the data was not looked at") -> DatasetSize:
    """Return a size of zero that carries the reason why the real one is unknown."""
    return DatasetSize(rows=0, tokens=0, source=reason, lengths={}, is_exact=False)


def combined_size(parts: Iterable[tuple[Mapping[int, int], float]], source: str, *, is_exact: bool) -> DatasetSize:
    """Return the size of several parts of the data together.

    Args:
        parts: For each part its lengths (as in `DatasetSize.lengths`), and how many times it counts.
        source: What counted or estimated them.
        is_exact: Whether a tokenizer counted them.
    """
    lengths: Counter[int] = Counter()
    rows = tokens = 0.0
    for part, times in parts:
        lengths.update(part)
        rows += times * sum(part.values())
        tokens += times * sum(length * count for length, count in part.items())
    return DatasetSize(rows=rows, tokens=tokens, source=source, lengths=dict(lengths), is_exact=is_exact)
