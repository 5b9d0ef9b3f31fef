"""Find the local files of a job's data and sample their rows. Needs neither torch nor `datasets`.

JSON, JSON lines, CSV and TSV are read with the standard library, compressed or not; Parquet and Arrow need pyarrow.
These are the formats that the trainer reads. Where the trainer reads a file differently, only an estimate is off.
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
FORMATS = (*LINES, ".json", *TEXT_TABLES, *TABLES)
COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
WRAPPERS = ("data", "rows", "train", "examples", "instances")
"""Keys that may hold the rows when a JSON file is one object."""
ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of the `datasets` library that hold no rows."""
MAX_FILES = 32
"""Most files that are sampled from one source."""
MAX_ROWS = 2_000
"""Most rows that are sampled from one file."""
NUM_POSITIONS = 8
"""Positions in a large file from which rows are sampled, because files are often sorted."""
MAX_BYTES = 4 << 20
"""Most bytes that are read from one file, decompressed."""
MAX_CELL_CHARACTERS = 2**31 - 1
BOM_AND_BLANKS = b"\xef\xbb\xbf \t\r\n"
WHOLE_JSON_BYTES = 16 << 20
"""A JSON array up to this size is decoded as a whole."""


class UnreadableError(Exception):
    """The rows of a file cannot be read on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a file.

    Attributes:
        rows: Decoded rows; a line that is not JSON stays text.
        scale: Rows in the file divided by rows in the sample; 1 when the sample is the whole file.
    """

    rows: list[Any]
    scale: float


def data_files(path: str) -> list[Path]:
    """Return the files of a data source: the file itself, the matches of a glob, or the data files in a folder."""
    source = Path(path)
    if source.is_dir():
        folder = source / "train" if (source / "dataset_dict.json").is_file() else source
        found = (p for p in folder.rglob("*") if not p.name.startswith(".") and p.name not in ABOUT_DATASETS)
        return sorted(p for p in found if file_format(p))
    if source.is_file() or not any(sign in path for sign in "*?["):
        return [source]
    return sorted(Path(match) for match in glob.glob(path, recursive=True))  # noqa: PTH207


def file_format(file: Path) -> str:
    """Return the suffix that names a file's format, without a compression suffix; empty for an unknown format."""
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix
    return suffix if suffix in FORMATS and not (file.suffix in COMPRESSED and suffix in TABLES) else ""


def sample_files(files: list[Path]) -> tuple[list[Path], float]:
    """Return at most `MAX_FILES` of the files, and the bytes of all files divided by the bytes of those."""
    sampled = files[:: -(-len(files) // MAX_FILES)] if files else []
    try:
        total_bytes, sampled_bytes = (sum(file.stat().st_size for file in group) for group in (files, sampled))
    except OSError:
        return files, 1.0
    return sampled, total_bytes / sampled_bytes if sampled_bytes else 1.0


def sample_rows(file: Path) -> Sample:
    """Read a sample of a file's rows.

    Raises:
        UnreadableError: the file is missing, damaged, of an unknown format, or needs pyarrow.
    """
    suffix = file_format(file)
    if not file.is_file():
        raise UnreadableError(f"{file} is not on this machine")
    if not suffix:
        raise UnreadableError(f"{file.name} is of no known kind")
    try:
        if file.suffix in COMPRESSED:
            return _sample_compressed(file, suffix)
        if suffix in TEXT_TABLES:
            return _sample_text_table(file, TEXT_TABLES[suffix])
        if suffix in TABLES:
            return _sample_table(file)
        return _sample_lines(file) if suffix in LINES else _sample_json(file)
    except ImportError as error:
        raise UnreadableError(f"{file.name} needs pyarrow, which is not installed") from error
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, lzma.LZMAError) as error:
        raise UnreadableError(f"{file.name} cannot be read: {error}") from error


def _sample_compressed(file: Path, suffix: str) -> Sample:
    """Read the beginning of a compressed file; the scale follows from how many of its bytes that took."""
    with file.open("rb") as raw, COMPRESSED[file.suffix](raw, "rb") as stream:
        text = stream.read(MAX_BYTES)
        scale = max(1.0, file.stat().st_size / raw.tell()) if len(text) == MAX_BYTES else 1.0
    lines = text.splitlines(keepends=True)
    if suffix in TEXT_TABLES:
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        rows: list[Any] = list(csv.DictReader(_decode_lines(lines), delimiter=TEXT_TABLES[suffix]))
    elif suffix == ".json" and text.lstrip(BOM_AND_BLANKS).startswith(b"["):
        rows = _parse_array_start(text.decode("utf-8-sig", "ignore"))[0]
    else:
        rows = [_parse_line(line) for line in lines if line.strip()]
    sample = _sample_evenly(rows)
    return Sample(rows=sample.rows, scale=scale * sample.scale)


def _sample_lines(file: Path) -> Sample:
    """Read lines from several positions of a large file, or all lines of a small one."""
    size = file.stat().st_size
    rows: list[Any] = []
    bytes_read = 0
    positions = 1 if size <= MAX_BYTES else NUM_POSITIONS
    with file.open("rb") as stream:
        for position in range(positions):
            stream.seek(size * position // positions)
            if position:
                stream.readline()  # skip the rest of the line that the position falls into
            for line in _take(stream, MAX_BYTES // positions, MAX_ROWS // positions):
                bytes_read += len(line)
                rows += [_parse_line(line)] if line.strip() else []
    return Sample(rows=rows, scale=max(1.0, size / bytes_read) if bytes_read else 1.0)


def _take(lines: Iterable[bytes], max_bytes: int, max_rows: int) -> Iterator[bytes]:
    """Yield lines until either limit is reached."""
    size = 0
    for number, line in enumerate(lines):
        if number >= max_rows or size >= max_bytes:
            return
        size += len(line)
        yield line


def _parse_line(line: bytes) -> Any:
    text = line.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _sample_json(file: Path) -> Sample:
    """Sample a `.json` file: an array of rows, one object that holds them, or JSON lines with the wrong suffix."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        text = stream.read(min(size, WHOLE_JSON_BYTES) if size <= WHOLE_JSON_BYTES else MAX_BYTES)
    if not text.lstrip(BOM_AND_BLANKS).startswith(b"["):
        return _sample_json_object(file) if size <= WHOLE_JSON_BYTES else _sample_lines(file)
    if size <= WHOLE_JSON_BYTES:
        return _sample_evenly(json.loads(text.decode("utf-8-sig", "replace")))
    rows, bytes_parsed = _parse_array_start(text.decode("utf-8-sig", "ignore"))
    return Sample(rows=rows, scale=size / bytes_parsed if bytes_parsed else 1.0)


def _sample_json_object(file: Path) -> Sample:
    """Sample the rows under one of `WRAPPERS` in a JSON object; a file that is not one JSON value is JSON lines."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError:
        return _sample_lines(file)
    rows = next((content[key] for key in WRAPPERS if isinstance(content.get(key), list)), [content])
    return _sample_evenly(rows)


def _parse_array_start(text: str) -> tuple[list[Any], int]:
    """Parse the complete rows at the beginning of a JSON array; return them and the bytes they take."""
    decoder, rows, end = json.JSONDecoder(), list[Any](), text.index("[") + 1
    while len(rows) < MAX_ROWS:
        start = end + len(text[end : end + 4096]) - len(text[end : end + 4096].lstrip(" \t\r\n,"))
        try:
            row, end = decoder.raw_decode(text, start)
        except ValueError:
            break
        rows.append(row)
    return rows, len(text[:end].encode())


def _sample_evenly(rows: list[Any]) -> Sample:
    """Return rows at even distances."""
    sampled = rows[:: max(1, len(rows) // MAX_ROWS)]
    return Sample(rows=sampled, scale=len(rows) / len(sampled) if sampled else 1.0)


def _decode_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Decode lines of UTF-8; the first may begin with a byte order mark."""
    for number, line in enumerate(lines):
        yield line.decode("utf-8" if number else "utf-8-sig", "replace")


def _sample_text_table(file: Path, delimiter: str) -> Sample:
    """Read the first rows of a CSV or TSV file."""
    size, bytes_read = file.stat().st_size, 0
    csv.field_size_limit(MAX_CELL_CHARACTERS)

    def count_bytes(lines: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal bytes_read
        for line in lines:
            bytes_read += len(line)
            yield line

    with file.open("rb") as stream:
        rows: list[Any] = []
        for row in csv.DictReader(_decode_lines(count_bytes(stream)), delimiter=delimiter):
            rows.append(row)
            if len(rows) == MAX_ROWS or bytes_read >= MAX_BYTES:
                break
    return Sample(rows=rows, scale=max(1.0, size / bytes_read) if bytes_read else 1.0)


def _sample_table(file: Path) -> Sample:
    """Sample a Parquet or Arrow file; pyarrow's own errors become ValueError."""
    import pyarrow as pa

    try:
        return _sample_parquet(file) if file.suffix == ".parquet" else _sample_arrow(file)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _sample_parquet(file: Path) -> Sample:
    """Read the first rows of several row groups."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        groups = range(table.num_row_groups)
        sampled_groups = groups[:: max(1, len(groups) // NUM_POSITIONS)]
        rows: list[Any] = []
        for group in sampled_groups:
            batches = table.iter_batches(batch_size=max(1, MAX_ROWS // len(sampled_groups)), row_groups=[group])
            if (first := next(batches, None)) is not None:
                rows += first.to_pylist()
        return Sample(rows=rows, scale=table.metadata.num_rows / len(rows) if rows else 1.0)


def _sample_arrow(file: Path) -> Sample:
    """Read slices at several positions of a memory-mapped Arrow file, in stream or file format."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_file(source).read_all()
        distance = max(1, table.num_rows // NUM_POSITIONS)
        slice_rows = max(1, MAX_ROWS // NUM_POSITIONS)
        slices = [table.slice(start, min(slice_rows, distance)) for start in range(0, table.num_rows, distance)]
        rows = [row for part in slices for row in part.to_pylist()]
        return Sample(rows=rows, scale=table.num_rows / len(rows) if rows else 1.0)
