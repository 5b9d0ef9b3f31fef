"""How much data there is, and how much of it a preparation has passed: in bytes of the files, and in rows."""

from __future__ import annotations

from pathlib import Path

from trainer.config import SourceConfig
from trainer.data.read.file_readers import PACKED
from trainer.data.read.sources import Chunk, files_of

MEGA = 1e6


class Extent:
    """The files of some sources, and the chunks that were read of them so far.

    Attributes:
        total_megabytes: Of all files; None where a source is not in files here.
    """

    def __init__(self, sources: list[SourceConfig]) -> None:
        found = [files_of(source.path) for source in sources]
        self._sizes = {str(file): file.stat().st_size / MEGA for files in found for file in files}
        self.total_megabytes = sum(self._sizes.values()) if all(found) else None
        self._file, self._before, self._within, self._rows = "", 0.0, 0.0, 0
        self._seen: list[tuple[float, int]] = []

    def passed(self, chunk: Chunk, *, counted: bool) -> None:
        """Notes a chunk that was read. Bytes within a file are known of lines, and not of tables.

        Args:
            chunk: Some rows.
            counted: Whether it is on its way to be tokenised; else that was done before.
        """
        if chunk.file != self._file:
            self._before += self._sizes.get(self._file, 0.0)
            self._file, self._within = chunk.file, 0.0
        self._within += sum(len(row) for row in chunk.rows if isinstance(row, str | bytes)) / MEGA
        self._rows += len(chunk.rows)
        here = min(self._within, self._sizes.get(chunk.file, 0.0)) if _is_plain(chunk.file) else 0.0
        if counted:
            self._seen.append((self._before + here, self._rows))

    def at(self, done: int) -> tuple[float, int]:
        """Megabytes and rows up to the `done`th chunk that was counted."""
        return self._seen[done - 1]


def _is_plain(file: str) -> bool:
    """Whether its lines are as long in the file as they are when they are read."""
    return Path(file).suffix not in PACKED
