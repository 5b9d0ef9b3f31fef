"""Shards on disk: what is written is what training reads, and the fingerprint sees every change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.pack.batch import Reduction, collate
from trainer.data.shards.shard import Piece, write_pieces
from trainer.data.shards.token_store import TokenStore

CHUNKS = [
    [("aaaa", "0011", 1, 1.0), ("bb", "01", 2, 0.5)],
    [],
    [("ccc", "111", 1, 1.0), ("cd", "01", 1, 1.0)],
]
"""Tokens, mask, row and weight of each piece, chunk by chunk."""


def write(folder: Path, chunks: list[list[tuple[str, str, int, float]]]) -> TokenStore:
    for number, pieces in enumerate(chunks):
        shard = folder / f"shard-{number:05d}"
        shard.mkdir(parents=True)
        write_pieces(
            shard,
            number,
            [
                Piece(row, np.frombuffer(t.encode(), np.uint8).astype(np.uint32), np.array([*map(int, m)], np.uint8), w)
                for t, m, row, w in pieces
            ],
        )
    return TokenStore(folder)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return write(tmp_path / "train", CHUNKS)


def test_every_conversation_is_read_as_it_was_written(store: TokenStore) -> None:
    flat = [piece for chunk in CHUNKS for piece in chunk]
    assert len(store) == 4
    for number, (tokens, mask, row, weight) in enumerate(flat):
        ids, own = store.conversation(number)
        assert bytes(ids.astype(np.uint8)).decode() == tokens
        assert own.tolist() == [*map(int, mask)]
        assert (store.rows["row"][number], store.rows["weight"][number]) == (row, weight)
        assert store.rows["targets"][number] == mask[1:].count("1"), "nothing predicts a first token"
    assert [store.shard_of(number) for number in range(4)] == [0, 0, 2, 2]
    assert store.rows["source"].tolist() == [0, 0, 2, 2]


def test_pieces_of_one_row_are_one_group_and_rows_of_two_shards_are_two(store: TokenStore) -> None:
    assert store.groups.tolist() == [0, 1, 2, 2]


def test_copies_have_one_content(tmp_path: Path) -> None:
    store = write(tmp_path, [[("ab", "01", 1, 1.0), ("cd", "01", 2, 1.0)], [("ab", "11", 1, 1.0)]])
    assert store.contents is not None
    assert len(set(store.contents.tolist())) == 2
    assert store.contents[0] == store.contents[2]


def test_an_empty_folder_is_an_empty_store(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    assert (len(store), store.groups.tolist(), store.fingerprint()) == (0, [], TokenStore(tmp_path).fingerprint())


@pytest.mark.parametrize(
    "change",
    [("aaab", "0011", 1, 1.0), ("aaaa", "0111", 1, 1.0), ("aaaa", "0011", 3, 1.0), ("aaaa", "0011", 1, 0.9)],
    ids=["token", "mask", "row", "weight"],
)
def test_the_fingerprint_sees_every_change(store: TokenStore, tmp_path: Path, change: tuple) -> None:  # type: ignore[type-arg]
    other = write(tmp_path / "other", [[change, CHUNKS[0][1]], *CHUNKS[1:]])
    assert other.fingerprint() != store.fingerprint()
    assert write(tmp_path / "same", CHUNKS).fingerprint() == store.fingerprint()


def test_a_split_by_content_has_another_fingerprint_only_where_it_differs(store: TokenStore, tmp_path: Path) -> None:
    assert store.fingerprint(held_out=True) != store.fingerprint(), "two pieces of one row stay on one side"
    apart = write(tmp_path / "apart", [[("ab", "01", 1, 1.0), ("cd", "01", 2, 1.0)]])
    assert apart.fingerprint(held_out=True) == apart.fingerprint()


def test_a_micro_batch_lays_conversations_end_to_end(store: TokenStore) -> None:
    batch = collate(store, [0, 2], Reduction(store, "token"))
    assert bytes(batch.input_ids[0].tolist()).decode() == "aaaaccc"
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert (batch.cu_seqlens.tolist(), batch.max_seqlen, batch.lengths) == ([0, 4, 7], 4, [4, 3])
    assert batch.target_index.tolist() == [1, 2, 4, 5], "the hidden state before each supervised token"
    assert bytes(batch.target_ids.tolist()).decode() == "aacc"
    assert batch.supervised == 4


def test_padding_and_its_inverse_give_every_token_back(store: TokenStore) -> None:
    batch = collate(store, [0, 1, 3], Reduction(store, "token"))
    rows = batch.input_ids[0][batch.padded_index]
    assert rows.shape == (3, 4)
    assert rows.reshape(-1)[batch.restore_index].equal(batch.input_ids[0])


def test_a_batch_of_nothing_is_one_token_that_costs_nothing(store: TokenStore) -> None:
    batch = collate(store, [], Reduction(store, "token"))
    assert (batch.input_ids.shape, batch.supervised, batch.target_weights.tolist()) == ((1, 1), 0, [])


@pytest.mark.parametrize(
    ("reduction", "weights", "total"),
    [("token", [1, 0.5, 1, 1], 2 + 0.5 + 2 + 1), ("sequence", [1 / 2, 0.5, 1 / 3, 1 / 3], 1 + 0.5 + 1)],
)
def test_weights_of_tokens_and_their_sum(store: TokenStore, reduction: str, weights: list[float], total: float) -> None:
    found = Reduction(store, reduction)
    assert [found.token_weight(number) for number in range(4)] == pytest.approx(weights)
    assert found.total(np.arange(4)) == pytest.approx(total)
