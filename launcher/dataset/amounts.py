"""How much data a job has: conversations by their length, and the packs that they make."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

FILL = 0.98
"""Share of packs that conversations fill, where their lengths are not known."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """One pass through the rows that a job trains on.

    Attributes:
        rows: Conversations.
        tokens: Their tokens.
        source: Who counted them, or how they were estimated.
        lengths: How many of those that were looked at have each length; empty where nobody knows.
        is_exact: Counted by the tokenizer, not estimated.
    """

    rows: float
    tokens: float
    source: str
    lengths: Mapping[int, int]
    is_exact: bool

    @property
    def is_known(self) -> bool:
        """Whether there is anything to reckon with."""
        return self.tokens > 0

    @property
    def mean(self) -> float:
        """Tokens of a conversation, on average."""
        return self.tokens / self.rows if self.rows else 0.0

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest conversation that was looked at; 0 where nobody knows."""
        return max(self.lengths, default=0)

    def packs(self, length: int, packing: bool = True) -> int:
        """Packs of at most so many tokens in one epoch."""
        if not packing:
            return round(self.rows)
        if not self.lengths:
            return math.ceil(self.tokens / (length * FILL))
        seen = sum(tokens * count for tokens, count in self.lengths.items())
        each = seen / num_packs(self.lengths, length)
        return max(1, math.ceil(self.tokens / each - 1e-6)) if self.tokens else 0


def num_packs(lengths: Mapping[int, int], capacity: int) -> int:
    """Packs of conversations of such lengths: the trainer's own way, the largest that still fits, over all of them."""
    counts = {length: count for length, count in lengths.items() if count > 0}
    left = sorted(counts)
    packs = 0
    while left:
        pattern = _pattern(left, counts, capacity)
        times = min(counts[length] // take for length, take in pattern)
        packs += times
        for length, take in pattern:
            counts[length] -= take * times
            if not counts[length]:
                del left[bisect_left(left, length)]
    return packs


def _pattern(left: list[int], counts: Mapping[int, int], capacity: int) -> list[tuple[int, int]]:
    """A pack that begins with the longest: lengths, and how many of each."""
    room, at, pattern = capacity, len(left), list[tuple[int, int]]()
    while at:
        length = left[at - 1]
        take = min(counts[length], room // length) or 1
        pattern.append((length, take))
        room -= take * length
        at = min(bisect_right(left, room), at - 1)
    return pattern


def no_amounts(why: str = "the data was not looked at") -> Amounts:
    """Amounts that nobody knows, and the reason."""
    return Amounts(rows=0, tokens=0, source=why, lengths={}, is_exact=False)


def combined(parts: Iterable[tuple[Mapping[int, int], float]], source: str, *, is_exact: bool) -> Amounts:
    """The amounts of several parts of the data, each so many times."""
    lengths: Counter[int] = Counter()
    rows = tokens = 0.0
    for part, times in parts:
        lengths.update(part)
        rows += times * sum(part.values())
        tokens += times * sum(length * count for length, count in part.items())
    return Amounts(rows=rows, tokens=tokens, source=source, lengths=dict(lengths), is_exact=is_exact)
