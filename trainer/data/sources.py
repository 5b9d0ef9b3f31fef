"""Finds the files behind a source and reads their rows in chunks, each row with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.config import SourceConfig
from trainer.errors import UserError

CHUNK_ROWS = 4096
CHUNK_BYTES = 8 << 20
LINE_FORMATS = (".jsonl", ".ndjson")
TABLE_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
KNOWN_SUFFIXES = (*LINE_FORMATS, ".json", *TABLE_FORMATS)


@dataclass(frozen=True)
class Chunk:
    """Rows that lie next to each other in one file.

    Attributes:
        number: position among all chunks of the run.
        source: index of the source in the job file.
        file: the file, for messages.
        first_row: line (JSON lines) or row number, from 1, of `rows[0]`.
        rows: undecoded lines, or decoded objects.
    """

    number: int
    source: int
    file: str
    first_row: int
    rows: list[Any]


def files_of(path: str) -> list[Path]:
    """The data files that a path means: itself, a glob's matches, or a folder's data files, sorted.

    An empty list means that the path is no local one, so a dataset name on the hub.
    Raises:
        UserError: it is local, but there is nothing to read.
    """
    place = Path(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [p for p in sorted(place.rglob("*")) if p.suffix in KNOWN_SUFFIXES and not p.name.startswith(".")]
        return _some(found, path)
    if any(sign in path for sign in "*?["):
        anchor = Path(place.anchor or ".")
        return _some(sorted(anchor.glob(str(place.relative_to(anchor) if place.anchor else place))), path)
    if place.suffix or place.is_absolute() or path.startswith("."):
        raise UserError(f"no such file: {path}", remedy="correct the path under `data` in the job file")
    return []


def read_chunks(sources: list[SourceConfig]) -> Iterator[Chunk]:
    """All rows of all sources, in the order of the job file, in chunks whose extent depends on the data only."""
    number = 0
    for index, source in enumerate(sources):
        for file, first_row, rows in _source_chunks(source.path):
            yield Chunk(number, index, file, first_row, rows)
            number += 1


def _source_chunks(path: str) -> Iterator[tuple[str, int, list[Any]]]:
    files = files_of(path)
    if not files:
        yield from ((path, at, rows) for at, rows in _batched(_hub_rows(path)))
    for file in files:
        yield from ((str(file), at, rows) for at, rows in _file_chunks(file))


def _file_chunks(file: Path) -> Iterator[tuple[int, list[Any]]]:
    if file.suffix in LINE_FORMATS:
        return _line_chunks(file)
    if file.suffix == ".json":
        return _batched(iter(_json_array(file)))
    if file.suffix in TABLE_FORMATS:
        return _batched(_table_rows(file))
    raise UserError(f"cannot read {file}", remedy=f"known endings: {', '.join(KNOWN_SUFFIXES)}")


def _line_chunks(file: Path) -> Iterator[tuple[int, list[Any]]]:
    rows: list[bytes] = []
    first, size = 1, 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            rows.append(line)
            size += len(line)
            if len(rows) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield first, rows
                rows, first, size = [], number + 1, 0
    if rows:
        yield first, rows


def _json_array(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"not valid JSON: {error}", where=f"{file}{line}", remedy="mend the file") from None
    if not isinstance(rows, list):
        raise UserError("the file must hold one JSON array of rows", where=str(file), remedy="or use JSON lines")
    return rows


def _table_rows(file: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(TABLE_FORMATS[file.suffix], data_files=str(file), split="train", streaming=True)
    except Exception as error:  # pandas, Arrow and datasets each have their own
        raise UserError(
            f"not a readable {file.suffix[1:]} file ({type(error).__name__}: {error})", where=str(file)
        ) from error


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return iter(load_dataset(name, split="train", streaming=True))
    except Exception as error:
        raise UserError(
            f"neither a local path nor a dataset that can be loaded: {name} ({type(error).__name__}: {error})",
            remedy="correct `data.train[].path`; a local path starts with ./ or /, or has a file ending",
        ) from error


def _batched(rows: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    first = 1
    while batch := list(islice(rows, CHUNK_ROWS)):
        yield first, batch
        first += len(batch)


def _some(files: list[Path], path: str) -> list[Path]:
    if not files:
        raise UserError(f"nothing to read in {path}", remedy=f"known endings: {', '.join(KNOWN_SUFFIXES)}")
    return files
