"""Packs whole conversations end to end: a pure function of (lengths, capacity, seed, epoch).

Greedy largest-that-fits over the histogram of lengths, in windows of the shuffled set: each epoch shuffles again, so
each epoch packs again. A pattern of lengths found once is laid out as often as the counts allow, so the time depends
on how many different lengths there are more than on how many conversations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST_WINDOW = 1 << 17
SMALLEST_WINDOW = 1 << 10
FULL_ENOUGH = 0.995
Pattern = list[tuple[int, int]]


@dataclass(frozen=True)
class Packs:
    """Conversations grouped into packs.

    Attributes:
        order: int64 [conversations], conversation numbers, pack after pack.
        starts: int64 [packs + 1], where each pack starts in `order`.
    """

    order: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        return self.order[self.starts[pack] : self.starts[pack + 1]]


def pack(lengths: np.ndarray, capacity: int, seed: int, epoch: int, window: int | None = None) -> Packs:
    """Group every conversation into packs of at most `capacity` tokens, in random order.

    Args:
        lengths: int [conversations], tokens of each; from 1 to `capacity`.
        capacity: most tokens in a pack.
        seed, epoch: the same pair gives the same packs on every machine.
        window: conversations packed against each other at one time; default: an eighth of them, within bounds, so
            that even conversations of unique lengths meet others in the next epoch.

    Raises:
        ValueError: a length is below 1 or above `capacity`.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be from 1 to {capacity}")
    window = window or min(max(len(lengths) // 8, SMALLEST_WINDOW), LARGEST_WINDOW)
    rng = np.random.default_rng((seed, epoch))
    shuffled = rng.permutation(len(lengths))
    parts: list[Packs] = []
    carried = shuffled[:0]
    for start in range(0, len(shuffled), window):
        members = np.concatenate([carried, shuffled[start : start + window]])
        last = start + window >= len(shuffled)
        packed = _pack_window(lengths, members, capacity)
        packed, carried = (packed, carried[:0]) if last else _keep_full(packed, lengths, capacity)
        parts.append(packed)
    return _shuffled(_joined(parts), rng)


def alone(count: int, seed: int, epoch: int) -> Packs:
    """Every conversation in a pack of its own, in random order: training without packing."""
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return Packs(order, np.arange(count + 1))


def _pack_window(lengths: np.ndarray, members: np.ndarray, capacity: int) -> Packs:
    """Patterns first, from the histogram alone; then each length class fills its places in random order."""
    own = lengths[members]
    counts = np.bincount(own, minlength=capacity + 1).tolist()
    place_lengths, sizes = _places(*_patterns(counts, capacity))
    key = np.uint16 if capacity < 1 << 16 else np.int32  # 16 bits sort by radix
    order = np.empty(len(members), np.int64)
    order[np.argsort(place_lengths.astype(key), kind="stable")] = members[np.argsort(own.astype(key), kind="stable")]
    return Packs(order, np.concatenate([[0], np.cumsum(sizes)]))


def _patterns(counts: list[int], capacity: int) -> tuple[list[Pattern], list[int]]:
    """Patterns of (length, how many) that use up `counts`, and how often each is laid out."""
    below = list(range(capacity + 1))  # union-find: the largest length at most x that is left; 0 means none

    def largest(x: int) -> int:
        while below[x] != x:
            below[x] = below[below[x]]
            x = below[x]
        return x

    for length in range(1, capacity + 1):
        if not counts[length]:
            below[length] = length - 1
    patterns: list[Pattern] = []
    copies: list[int] = []
    lead = largest(capacity)
    while lead:
        pattern: Pattern = []
        room, length, times = capacity, lead, counts[lead]
        while length:
            take = min(counts[length], room // length)
            pattern.append((length, take))
            times = min(times, counts[length] // take)
            room -= take * length
            length = largest(min(room, length - 1))
        for length, take in pattern:
            counts[length] -= take * times
            if not counts[length]:
                below[length] = length - 1
        patterns.append(pattern)
        copies.append(times)
        lead = largest(lead)
    return patterns, copies


def _places(patterns: list[Pattern], copies: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Length of every place, pack after pack, and how many places each pack has."""
    pairs = np.array([pair for pattern in patterns for pair in pattern], np.int64).reshape(-1, 2)
    per_pattern = np.array([len(pattern) for pattern in patterns], np.int64)
    first = np.cumsum(per_pattern) - per_pattern
    which = np.repeat(np.arange(len(patterns)), copies)
    runs = per_pattern[which]
    within = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
    chosen = pairs[np.repeat(first[which], runs) + within]
    takes = np.add.reduceat(pairs[:, 1], first) if len(first) else first
    return np.repeat(chosen[:, 0], chosen[:, 1]), takes[which]


def _keep_full(packed: Packs, lengths: np.ndarray, capacity: int) -> tuple[Packs, np.ndarray]:
    """Full packs stay; the conversations of the others go on into the next window."""
    fill = np.add.reduceat(lengths[packed.order], packed.starts[:-1])
    keep = fill >= FULL_ENOUGH * capacity
    sizes = np.diff(packed.starts)
    in_kept = np.repeat(keep, sizes)
    return Packs(packed.order[in_kept], np.concatenate([[0], np.cumsum(sizes[keep])])), packed.order[~in_kept]


def _joined(parts: list[Packs]) -> Packs:
    if not parts:
        return Packs(np.zeros(0, np.int64), np.zeros(1, np.int64))
    sizes = np.concatenate([np.diff(part.starts) for part in parts])
    return Packs(np.concatenate([part.order for part in parts]), np.concatenate([[0], np.cumsum(sizes)]))


def _shuffled(packs: Packs, rng: np.random.Generator) -> Packs:
    chosen = rng.permutation(len(packs))
    sizes = np.diff(packs.starts)[chosen]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
    return Packs(packs.order[np.repeat(packs.starts[:-1][chosen], sizes) + within], starts)
