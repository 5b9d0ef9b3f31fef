"""The local files behind a job's data, and a sample of their rows. Needs neither torch nor `datasets`.

JSON, JSON lines and text tables are read with the standard library, packed or not; Parquet and Arrow where pyarrow is
installed. What the trainer's readers know is known here, and what the two understand differently is only an estimate.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINES, TABLES, TEXT_TABLES = (".jsonl", ".ndjson"), (".parquet", ".arrow"), {".csv": ",", ".tsv": "\t"}
KINDS = (*LINES, ".json", *TEXT_TABLES, *TABLES)
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
WRAPPERS = ("data", "rows", "train", "examples", "instances")
"""Keys under which a JSON file that is one object holds its rows."""
ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of the `datasets` library that hold no rows."""
MOST_FILES = 32
"""Files of a source that are looked at; the rest is taken to be like them."""
ROWS_READ = 2_000
"""Rows of a file that are looked at; the rest is taken to be like them."""
PLACES = 8
"""Places of a large file that rows are taken from: files are often sorted."""
BYTES_READ = 4 << 20
MOST_CELL_CHARACTERS = 2**31 - 1
BLANK = b"\xef\xbb\xbf \t\r\n"
WHOLE_JSON_BYTES = 16 << 20
"""A JSON array up to this size is decoded as a whole."""


class UnreadableError(Exception):
    """Why the rows of a file cannot be looked at here."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a file.

    Attributes:
        rows: Decoded rows; a line that is no JSON stays text.
        times: How many times as many the file holds; 1 where they are all.
    """

    rows: list[Any]
    times: float


def data_files(path: str) -> list[Path]:
    """The files that a source means: itself, those that match it, or the data files in the folder."""
    place = Path(path)
    if place.is_dir():
        inside = place / "train" if (place / "dataset_dict.json").is_file() else place
        found = (p for p in inside.rglob("*") if not p.name.startswith(".") and p.name not in ABOUT_DATASETS)
        return sorted(p for p in found if kind_of(p))
    if place.is_file() or not any(sign in path for sign in "*?["):
        return [place]
    return sorted(Path(match) for match in glob.glob(path, recursive=True))  # noqa: PTH207


def kind_of(file: Path) -> str:
    """The ending that says how a file is written, without that of its packing; empty when it is not known."""
    suffix = Path(file.stem).suffix if file.suffix in PACKED else file.suffix
    return suffix if suffix in KINDS and not (file.suffix in PACKED and suffix in TABLES) else ""


def looked_at(files: list[Path]) -> tuple[list[Path], float]:
    """Some files of many, and how many times as much there is in all, by bytes."""
    some = files[:: -(-len(files) // MOST_FILES)] if files else []
    try:
        every, taken = (sum(file.stat().st_size for file in group) for group in (files, some))
    except OSError:
        return files, 1.0
    return some, every / taken if taken else 1.0


def sample(file: Path) -> Sample:
    """A sample of a file's rows.

    Raises:
        UnreadableError: it is not here, of an unknown kind, damaged, or needs pyarrow.
    """
    kind = kind_of(file)
    if not file.is_file():
        raise UnreadableError(f"{file} is not on this machine")
    if not kind:
        raise UnreadableError(f"{file.name} is of no known kind")
    try:
        if file.suffix in PACKED:
            return _packed(file, kind)
        if kind in TEXT_TABLES:
            return _text_table(file, TEXT_TABLES[kind])
        return _table(file) if kind in TABLES else _lines(file) if kind in LINES else _json(file)
    except ImportError as error:
        raise UnreadableError(f"{file.name} needs pyarrow, which is not installed") from error
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, lzma.LZMAError) as error:
        raise UnreadableError(f"{file.name} cannot be read: {error}") from error


def _packed(file: Path, kind: str) -> Sample:
    """The beginning of a packed file; how much there is tells the share of its bytes that were unpacked."""
    with file.open("rb") as raw, PACKED[file.suffix](raw, "rb") as stream:
        text = stream.read(BYTES_READ)
        times = max(1.0, file.stat().st_size / raw.tell()) if len(text) == BYTES_READ else 1.0
    lines = text.splitlines(keepends=True)
    if kind in TEXT_TABLES:
        csv.field_size_limit(MOST_CELL_CHARACTERS)
        rows: list[Any] = list(csv.DictReader(_text(lines), delimiter=TEXT_TABLES[kind]))
    elif kind == ".json" and text.lstrip(BLANK).startswith(b"["):
        rows = _first_of_array(text.decode("utf-8-sig", "ignore"))[0]
    else:
        rows = [_decoded(line) for line in lines if line.strip()]
    taken = _spread(rows)
    return Sample(rows=taken.rows, times=times * taken.times)


def _lines(file: Path) -> Sample:
    """Lines from several places of a large file, all of a small one."""
    size = file.stat().st_size
    rows: list[Any] = []
    seen = 0
    places = 1 if size <= BYTES_READ else PLACES
    with file.open("rb") as stream:
        for place in range(places):
            stream.seek(size * place // places)
            if place:
                stream.readline()  # the rest of a line that began before
            for line in _some(stream, BYTES_READ // places, ROWS_READ // places):
                seen += len(line)
                rows += [_decoded(line)] if line.strip() else []
    return Sample(rows=rows, times=max(1.0, size / seen) if seen else 1.0)


def _some(lines: Iterable[bytes], most_bytes: int, most_rows: int) -> Iterator[bytes]:
    size = 0
    for number, line in enumerate(lines):
        if number >= most_rows or size >= most_bytes:
            return
        size += len(line)
        yield line


def _decoded(line: bytes) -> Any:
    text = line.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json(file: Path) -> Sample:
    """An array of rows; JSON lines are often named so, too."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        text = stream.read(min(size, WHOLE_JSON_BYTES) if size <= WHOLE_JSON_BYTES else BYTES_READ)
    if not text.lstrip(BLANK).startswith(b"["):
        return _wrapped(file) if size <= WHOLE_JSON_BYTES else _lines(file)
    if size <= WHOLE_JSON_BYTES:
        return _spread(json.loads(text.decode("utf-8-sig", "replace")))
    rows, used = _first_of_array(text.decode("utf-8-sig", "ignore"))
    return Sample(rows=rows, times=size / used if used else 1.0)


def _wrapped(file: Path) -> Sample:
    """One object that holds the rows under a usual key; else it is JSON lines."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError:
        return _lines(file)
    rows = next((found[key] for key in WRAPPERS if isinstance(found.get(key), list)), [found])
    return _spread(rows)


def _first_of_array(text: str) -> tuple[list[Any], int]:
    """The whole rows at the beginning of an array, and how many bytes they take."""
    decoder, rows, at = json.JSONDecoder(), list[Any](), text.index("[") + 1
    while len(rows) < ROWS_READ:
        begin = at + len(text[at : at + 4096]) - len(text[at : at + 4096].lstrip(" \t\r\n,"))
        try:
            row, at = decoder.raw_decode(text, begin)
        except ValueError:
            break
        rows.append(row)
    return rows, len(text[:at].encode())


def _spread(rows: list[Any]) -> Sample:
    """Rows at even distances."""
    every = max(1, len(rows) // ROWS_READ)
    taken = rows[::every]
    return Sample(rows=taken, times=len(rows) / len(taken) if taken else 1.0)


def _text(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line.decode("utf-8" if number else "utf-8-sig", "replace")


def _text_table(file: Path, delimiter: str) -> Sample:
    size, seen = file.stat().st_size, 0
    csv.field_size_limit(MOST_CELL_CHARACTERS)

    def counted(lines: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal seen
        for line in lines:
            seen += len(line)
            yield line

    with file.open("rb") as stream:
        rows: list[Any] = []
        for row in csv.DictReader(_text(counted(stream)), delimiter=delimiter):
            rows.append(row)
            if len(rows) == ROWS_READ or seen >= BYTES_READ:
                break
    return Sample(rows=rows, times=max(1.0, size / seen) if seen else 1.0)


def _table(file: Path) -> Sample:
    """Rows of Parquet's row groups or Arrow's record batches, from several places."""
    import pyarrow as pa

    try:
        return _parquet(file) if file.suffix == ".parquet" else _arrow(file)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _parquet(file: Path) -> Sample:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        groups = range(table.num_row_groups)
        taken = groups[:: max(1, len(groups) // PLACES)]
        rows: list[Any] = []
        for group in taken:
            batches = table.iter_batches(batch_size=max(1, ROWS_READ // len(taken)), row_groups=[group])
            if (first := next(batches, None)) is not None:
                rows += first.to_pylist()
        return Sample(rows=rows, times=table.metadata.num_rows / len(rows) if rows else 1.0)


def _arrow(file: Path) -> Sample:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_file(source).read_all()
        every = max(1, table.num_rows // PLACES)
        size = max(1, ROWS_READ // PLACES)
        parts = [table.slice(at, min(size, every)) for at in range(0, table.num_rows, every)]
        rows = [row for part in parts for row in part.to_pylist()]
        return Sample(rows=rows, times=table.num_rows / len(rows) if rows else 1.0)
