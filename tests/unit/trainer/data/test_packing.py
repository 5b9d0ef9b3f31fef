"""Packing: nothing lost, nothing over the edge, full, new each epoch, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.pack.packing import alone, pack


def lognormal(count: int, mean: float, capacity: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).lognormal(np.log(mean), 1.0, count)
    return np.clip(drawn.astype(np.int64) + 1, 1, capacity)


def totals(lengths: np.ndarray, packs: object) -> np.ndarray:
    return np.array([lengths[packs[n]].sum() for n in range(len(packs))])  # type: ignore[index, arg-type]


@pytest.mark.parametrize(("count", "mean", "capacity"), [(50_000, 400, 4096), (20_000, 1000, 16384), (30_000, 8, 64)])
def test_every_conversation_once_within_capacity_and_full(count: int, mean: float, capacity: int) -> None:
    lengths = lognormal(count, mean, capacity)
    packs = pack(lengths, capacity, seed=1, epoch=0)
    assert sorted(packs.order) == list(range(count))
    filled = totals(lengths, packs)
    assert filled.max() <= capacity
    assert len(packs) <= np.ceil(lengths.sum() / capacity / 0.999)


def test_windows_carry_what_did_not_fill() -> None:
    lengths = lognormal(20_000, 300, 4096)
    packs = pack(lengths, 4096, seed=1, epoch=0, window=1000)
    assert sorted(packs.order) == list(range(len(lengths)))
    assert totals(lengths, packs).max() <= 4096
    assert lengths.sum() / (len(packs) * 4096) >= 0.999


def test_pure_function_of_seed_and_epoch() -> None:
    lengths = lognormal(5000, 100, 1024)
    first, again = pack(lengths, 1024, 3, 0), pack(lengths, 1024, 3, 0)
    assert (first.order == again.order).all()
    other = pack(lengths, 1024, 3, 1)
    groups = [{frozenset(map(int, p[n])) for n in range(len(p)) if len(p[n]) > 1} for p in (first, other)]
    assert len(groups[0] & groups[1]) < 0.05 * len(groups[0]), "an epoch must pack anew"


@pytest.mark.parametrize("lengths", [[], [1], [8], [8, 8], [5, 5, 5], [1] * 100])
def test_small_and_odd_sets(lengths: list[int]) -> None:
    array = np.array(lengths, np.int64)
    packs = pack(array, 8, 0, 0)
    assert sorted(packs.order) == list(range(len(lengths)))
    assert all(array[packs[n]].sum() <= 8 for n in range(len(packs)))
    assert len(alone(len(lengths), 0, 0)) == len(lengths)


@pytest.mark.parametrize("lengths", [[0], [9], [4, -1]])
def test_impossible_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="from 1 to 8"):
        pack(np.array(lengths), 8, 0, 0)
