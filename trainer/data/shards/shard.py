"""One shard on disk: what training reads of the conversations of one chunk."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

ROW = np.dtype(
    [("length", "<i4"), ("targets", "<i4"), ("weight", "<f4"), ("source", "<i2"), ("row", "<i8"), ("offset", "<i8")]
)

CONTENTS = "contents.npy"
"""Digests of the tokens of each piece, by which copies are found."""


@dataclass(frozen=True)
class Piece:
    """One tokenised conversation, or a part of an overlong one.

    Attributes:
        number: line or row in its file, from 1.
        ids: uint32 [length].
        mask: uint8 [length], 1 where a token is supervised.
        weight: of its row in the loss.
    """

    number: int
    ids: np.ndarray
    mask: np.ndarray
    weight: float

    @property
    def targets(self) -> int:
        """Supervised predictions: the first token is never predicted."""
        return int(self.mask[1:].sum())


def write_pieces(folder: Path, source: int, pieces: list[Piece]) -> None:
    """Write the index, tokens and masks of a chunk's pieces into `folder`."""
    rows = np.zeros(len(pieces), ROW)
    rows["length"] = [len(piece.ids) for piece in pieces]
    rows["targets"] = [piece.targets for piece in pieces]
    rows["weight"] = [piece.weight for piece in pieces]
    rows["row"] = [piece.number for piece in pieces]
    rows["source"] = source
    rows["offset"] = np.cumsum(rows["length"], dtype=np.int64) - rows["length"]
    np.save(folder / "rows.npy", rows, allow_pickle=False)
    np.save(folder / CONTENTS, np.array([_digest(p.ids) for p in pieces], np.uint64), allow_pickle=False)
    np.save(folder / "tokens.npy", _joined([p.ids for p in pieces], np.uint32), allow_pickle=False)
    np.save(folder / "mask.npy", _joined([p.mask for p in pieces], np.uint8), allow_pickle=False)


def _digest(ids: np.ndarray) -> int:
    return int.from_bytes(blake2b(ids.tobytes(), digest_size=8).digest(), "little")


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)
