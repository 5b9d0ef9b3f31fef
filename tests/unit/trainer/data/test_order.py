"""The global order: steps do not depend on ranks, nothing is dropped, work is level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.pack.batch import Reduction
from trainer.data.pack.global_order import GlobalOrder, deal, work_of
from trainer.data.pack.holdout import labels_of, split, split_by_label
from trainer.data.pack.packing import pack
from trainer.data.shards.shard import CONTENTS, ROW, Piece, write_pieces
from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError


def store(lengths: np.ndarray, sources: np.ndarray | None = None) -> Any:
    rows = np.zeros(len(lengths), ROW)
    rows["length"] = lengths
    if sources is not None:
        rows["source"] = sources
    return _Store(rows)


class _Store:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)


def config(packs: int = 8, **changes: Any) -> TrainerConfig:
    execution = {"packs_per_step": packs, "accumulation": packs}
    raw = tiny.trainer_config(Path("m"), Path("d.jsonl"), **{"execution": execution, **changes})
    return TrainerConfig.model_validate(raw)


LENGTHS = np.random.default_rng(0).integers(1, 256, 500)


def test_every_epoch_is_the_whole_set_in_level_steps() -> None:
    order = GlobalOrder(store(LENGTHS), config(training={"num_train_epochs": 3}))
    first = 0
    for epoch in range(3):
        steps = order.steps_in(epoch)
        packs = [order.packs_of(first + step) for step in range(steps)]
        assert sorted(np.concatenate([np.concatenate(p) for p in packs])) == list(range(500))
        sizes = [len(p) for p in packs]
        assert max(sizes) <= 8
        assert max(sizes) - min(sizes) <= 1, "no small left-over step"
        first += steps
    assert order.max_steps == first


def test_position_is_found_at_once_and_equals_walking() -> None:
    order = GlobalOrder(store(LENGTHS), config(training={"max_steps": 10_000}))
    walked = GlobalOrder(store(LENGTHS), config(training={"max_steps": 10_000}))
    target = order.steps_in(0) + 3
    for step in range(target):
        walked.packs_of(step)
    jumped = [list(p) for p in order.packs_of(target)]
    assert jumped == [list(p) for p in walked.packs_of(target)]
    assert order.locate(target).epoch == 1
    assert order.locate(target).step == 3


def test_max_steps_wins_over_epochs() -> None:
    assert GlobalOrder(store(LENGTHS), config(training={"max_steps": 7})).max_steps == 7


def test_weights_repeat_and_sample_sources() -> None:
    sources = np.array([0] * 300 + [1] * 200)
    data = {"train": [{"path": "a", "weight": 2.0}, {"path": "b", "weight": 0.5}]}
    order = GlobalOrder(store(LENGTHS, sources), config(data=data))
    seen = np.concatenate([n for s in range(order.steps_in(0)) for n in order.packs_of(s)])
    counts = np.bincount(seen, minlength=500)
    assert (counts[:300] == 2).all()
    assert counts[300:].sum() == 100
    assert counts[300:].max() == 1


def test_split_is_disjoint_and_complete() -> None:
    train, held = split(100, 0.1, 5)
    assert len(held) == 10
    assert sorted([*train, *held]) == list(range(100))
    assert [len(part) for part in split(3, 0.01, 5)] == [2, 1]
    assert len(split(100, 0.0, 5)[1]) == 0


def test_copies_and_pieces_of_one_row_stay_on_one_side() -> None:
    """Rows of one to three pieces; every seventh piece is a copy of another row's."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(1, 4, 400))
    contents = np.where(rng.random(len(groups)) < 1 / 7, rng.integers(0, 50, len(groups)), 100 + np.arange(len(groups)))
    train, held = split_by_label(labels_of(groups, contents), 0.1, 5)
    assert sorted([*train, *held]) == list(range(len(groups)))
    assert not set(groups[train]) & set(groups[held])
    assert not set(contents[train]) & set(contents[held])
    assert 0 < len(held) <= round(0.1 * len(groups))


def test_rows_that_a_long_chain_of_copies_connects_have_one_label() -> None:
    """Each row of two pieces shares one with the row before it: some steps of labelling, not as many as rows."""
    count = 50_000
    pieces = np.arange(2 * count)
    assert not labels_of(pieces // 2, (pieces + 1) // 2).any()


def test_rows_that_all_differ_are_split_as_ever() -> None:
    labels = labels_of(np.arange(100), np.random.default_rng(1).permutation(100).astype(np.uint64))
    for new, old in zip(split_by_label(labels, 0.1, 5), split(100, 0.1, 5), strict=True):
        assert (new == old).all()


def test_a_set_of_copies_cannot_be_split() -> None:
    with pytest.raises(UserError, match="hold out nothing"):
        split_by_label(np.zeros(9, np.int64), 0.2, 5)


@pytest.mark.parametrize(("world", "accumulation", "micro"), [(1, 8, 1), (2, 4, 1), (4, 1, 2), (8, 1, 1), (2, 2, 2)])
def test_deal_uses_every_pack_once(world: int, accumulation: int, micro: int) -> None:
    work = np.random.default_rng(1).random(world * accumulation * micro - 1)
    dealt = deal(work, world, accumulation, micro)
    assert dealt.shape == (world, accumulation, micro)
    used = dealt[dealt >= 0]
    assert sorted(used) == list(range(len(work)))
    assert (dealt < 0).sum() == 1


def test_deal_levels_work_in_every_micro_step() -> None:
    """Llama-3.1-8B's c, packs of 32k tokens: ranks wait for the slowest in each micro-step."""
    drawn = np.random.default_rng(2).lognormal(np.log(4000) - 0.5, 1.0, 8 * 64 * 8)
    lengths = np.clip(drawn.astype(np.int64) + 1, 1, 32_768)
    packs = pack(lengths, 32_768, 0, 0)
    chosen = [packs[number] for number in range(8 * 8)]
    work = work_of(chosen, lengths, 53_000.0)

    def slowest(layout: np.ndarray) -> float:
        return float(work[layout].max(0).sum() / (work.sum() / 8))

    levelled = slowest(deal(work, 8, 8, 1)[:, :, 0])
    at_random = slowest(np.arange(64).reshape(8, 8))
    assert levelled < 1.03
    assert at_random > 1.1


def test_work_counts_squares_of_segments_not_of_packs() -> None:
    lengths = np.array([100, 100, 200])
    assert work_of([np.array([0, 1]), np.array([2])], lengths, 0.0).tolist() == [20_000, 40_000]


def test_pieces_of_a_row_weigh_as_one_and_each_as_one_in_folders_of_before(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00000"
    shard.mkdir()
    of_rows = (1, 1, 2)
    write_pieces(shard, 0, [Piece(row, np.arange(5, dtype=np.uint32), np.ones(5, np.uint8), 1.0) for row in of_rows])

    def weights() -> list[float]:
        reduction = Reduction(TokenStore(tmp_path), "sequence")
        return [reduction.token_weight(number) for number in range(3)]

    assert weights() == [1 / 8, 1 / 8, 1 / 4]
    (shard / CONTENTS).unlink()  # which folders of before do not have
    assert weights() == [1 / 4] * 3
