"""Tokenised conversations on disk: memory-mapped shards behind one length index."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from trainer.data.shards.shard import CONTENTS, ROW


class TokenStore:
    """All conversations of one split, by number from 0.

    Args:
        folder: holds `shard-00000/`, `shard-00001/`, ...

    Attributes:
        rows: structured array (length, targets, weight, source, row, offset), one entry per conversation.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = sorted(folder.glob("shard-*"))
        self._rows = [np.load(shard / "rows.npy", allow_pickle=False) for shard in self._shards]
        self.rows = np.concatenate(self._rows) if self._rows else np.zeros(0, ROW)
        self._first = np.cumsum([0, *(len(rows) for rows in self._rows)])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(_mapped(shard / "tokens.npy"), _mapped(shard / "mask.npy")) for shard in self._shards]

    @cached_property
    def groups(self) -> np.ndarray:
        """int64 [conversations], from 0: pieces of one row, or its renderings, have the same number."""
        new = np.ones(len(self.rows), bool)
        new[1:] = self.rows["row"][1:] != self.rows["row"][:-1]
        new[self._first[:-1][self._first[:-1] < len(new)]] = True
        return np.cumsum(new) - 1

    @cached_property
    def contents(self) -> np.ndarray | None:
        """uint64 [conversations], the same for the same tokens; None in folders that were prepared without it."""
        files = [shard / CONTENTS for shard in self._shards]
        if not all(file.is_file() for file in files):
            return None
        return np.concatenate([np.load(f, allow_pickle=False) for f in files] or [np.zeros(0, np.uint64)])

    def shard_of(self, number: int) -> int:
        """Which shard a conversation lies in."""
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def conversation(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (uint32) and assistant mask (uint8) of one conversation, both of its length."""
        tokens, mask = self._arrays[self.shard_of(number)]
        start = int(self.rows["offset"][number])
        end = start + int(self.rows["length"][number])
        return tokens[start:end], mask[start:end]

    def fingerprint(self, *, held_out: bool = False) -> str:
        """SHA-256 over everything that training reads.

        Args:
            held_out: some of these rows are held out, which a folder without contents would do otherwise.
        """
        digest = hashlib.sha256(self.rows.tobytes())
        for tokens, mask in self._arrays:
            digest.update(tokens.data)
            digest.update(mask.data)
        if held_out and self._has_copies_or_pieces():
            digest.update(b"split by content")
        return digest.hexdigest()

    def _has_copies_or_pieces(self) -> bool:
        if self.contents is None:
            return False
        return min(len(np.unique(self.contents)), len(np.unique(self.groups))) < len(self)


def read_fingerprint(data_dir: Path) -> dict[str, str]:
    """The fingerprint file of a prepared data folder: `content`, and the `key` of what it was made from."""
    found: dict[str, str] = json.loads((data_dir / "fingerprint.json").read_text(encoding="utf-8"))
    return found


def _mapped(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an empty file cannot be mapped
        array = np.load(file, allow_pickle=False)
    return array
