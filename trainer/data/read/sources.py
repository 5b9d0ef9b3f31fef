"""Finds the files behind a source and reads their rows in chunks, each row with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import SourceConfig
from trainer.data.read.file_readers import KNOWN_SUFFIXES, batched, chunks_of, kind_of
from trainer.data.read.row_values import without_nulls
from trainer.errors import UserError
from trainer.runtime.files import read_json

ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of the `datasets` library that say something of the data and hold none."""


@dataclass(frozen=True)
class Chunk:
    """Rows that lie next to each other in one file.

    Attributes:
        number: position among all chunks of the run.
        source: index of the source in the job file.
        file: the file, for messages.
        first_row: line (JSON lines) or row number, from 1, of `rows[0]`.
        rows: undecoded lines, or decoded objects.
        columns: which column is read as what, from the job file.
    """

    number: int
    source: int
    file: str
    first_row: int
    rows: list[Any]
    columns: dict[str, str | None] = field(default_factory=dict)


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
        return _some(_files_in(place), path)
    if any(sign in path for sign in "*?["):
        anchor = Path(place.anchor or ".")
        return _some(sorted(anchor.glob(str(place.relative_to(anchor) if place.anchor else place))), path)
    if place.suffix or place.is_absolute() or path.startswith("."):
        raise UserError(f"no such file: {path}", remedy="correct the path under `data` in the job file")
    return []


def _files_in(folder: Path) -> list[Path]:
    """Data files of a folder, or of the training split of a folder that `save_to_disk` wrote."""
    if (folder / "dataset_dict.json").is_file():
        if not (folder / "train").is_dir():
            splits = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir()))
            raise UserError(f"{folder} has no split `train`", remedy=f"name the folder of a split: {splits}")
        folder = folder / "train"
    written = (read_json(folder / "state.json") or {}) if (folder / "dataset_info.json").is_file() else {}
    if written.get("_data_files"):
        return [folder / entry["filename"] for entry in written["_data_files"]]
    return [p for p in sorted(folder.rglob("*")) if _is_data(p.relative_to(folder)) and p.is_file()]


def _is_data(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and name.name not in ABOUT_DATASETS and kind_of(name) is not None


def left_out(path: str) -> list[str]:
    """Files that lie in the folder `path` and are not read."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    read = set(files_of(path))
    names = (p for p in sorted(folder.rglob("*")) if p.is_file() and p not in read)
    return [str(p) for p in names if not any(part.startswith(".") for part in p.relative_to(folder).parts[:-1])]


def read_chunks(sources: list[SourceConfig]) -> Iterator[Chunk]:
    """All rows of all sources, in the order of the job file, in chunks whose extent depends on the data only."""
    number = 0
    for index, source in enumerate(sources):
        columns: dict[str, str | None] = {str(name): column for name, column in source.columns.items()}
        for file, first_row, rows in _source_chunks(source.path):
            yield Chunk(number, index, file, first_row, rows, columns)
            number += 1


def _source_chunks(path: str) -> Iterator[tuple[str, int, list[Any]]]:
    files = files_of(path)
    if not files:
        yield from ((path, at, rows) for at, rows in batched(_hub_rows(path)))
    for file in files:
        yield from ((str(file), at, rows) for at, rows in chunks_of(file))


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True)
    except Exception as error:
        raise UserError(
            f"neither a local path nor a dataset that can be loaded: {name} ({type(error).__name__}: {error})",
            remedy="correct `data.train[].path`; a local path starts with ./ or /, or has a file ending",
        ) from error
    return (without_nulls(row) for row in rows)


def _some(files: list[Path], path: str) -> list[Path]:
    if not files:
        raise UserError(f"nothing to read in {path}", remedy=f"known endings: {', '.join(KNOWN_SUFFIXES)}")
    return files
