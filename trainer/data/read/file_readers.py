"""Reads one data file in chunks: JSON lines, JSON, tables; packed by gzip, bzip2 or xz, or not.

JSON is told from JSON lines by what is in the file, as many carry the other's name. Text tables are read as text: an
answer `007` stays what it is. Arrow and Parquet give every row the keys of all, with null where a row has none, so
nulls of tables are taken out; nulls in JSON are the user's own.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from trainer.data.read.row_values import without_nulls
from trainer.errors import RowError, UserError

CHUNK_ROWS = 4096
CHUNK_BYTES = 8 << 20
LINE_FORMATS = (".jsonl", ".ndjson")
TEXT_TABLES = {".csv": ",", ".tsv": "\t"}
TABLES = (".parquet", ".arrow")
KINDS = (*LINE_FORMATS, ".json", *TEXT_TABLES, *TABLES)
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
KNOWN_SUFFIXES = (*KINDS, *(f".jsonl{packed}" for packed in PACKED))
WRAPPERS = ("data", "rows", "train", "examples", "instances")
"""Keys under which a file that is one object holds its rows."""
BOM = b"\xef\xbb\xbf"
BLANK = object()
MOST_CELL_CHARACTERS = 2**31 - 1

Rows = tuple[int, list[Any]]


def kind_of(file: Path) -> str | None:
    """The ending that says how a file is written, without that of its packing; None when it is not known."""
    suffix = Path(file.stem).suffix if file.suffix in PACKED else file.suffix
    return suffix if suffix in KINDS and not (file.suffix in PACKED and suffix in TABLES) else None


def chunks_of(file: Path) -> Iterator[Rows]:
    """Rows of a file in chunks, each with the line or row number that it starts at.

    Raises:
        UserError: the file cannot be read, or its ending is not known.
    """
    kind = kind_of(file)
    if kind is None:
        raise UserError(f"cannot read {file}", remedy=f"known endings: {', '.join(KNOWN_SUFFIXES)}")
    try:
        if kind in TEXT_TABLES:
            yield from batched(_text_table(file, TEXT_TABLES[kind]))
        elif kind in TABLES:
            yield from batched(_table(file, kind))
        elif _is_lines(file, kind):
            with _open(file) as lines:
                yield from batched(lines)
        else:
            yield from batched(_json_rows(file))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"the file cannot be read: {error}", where=str(file)) from None


def batched(rows: Iterable[Any]) -> Iterator[Rows]:
    """Rows in chunks of bounded number and size, each with the number of its first row."""
    batch: list[Any] = []
    first, size = 1, 0
    for row in rows:
        batch.append(row)
        size += _size(row)
        if len(batch) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield first, batch
            batch, first, size = [], first + len(batch), 0
    if batch:
        yield first, batch


def _size(row: Any) -> int:
    """Characters, or bytes, of all texts in a row."""
    size, left = 0, [row]
    while left:
        value = left.pop()
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
    return size


def _open(file: Path) -> IO[bytes]:
    opened: IO[bytes] = PACKED[file.suffix](file, "rb") if file.suffix in PACKED else file.open("rb")
    return opened


def _is_lines(file: Path, kind: str) -> bool:
    """Whether a JSON file has a row on each line: its first line holds an object, and is not the only one."""
    with _open(file) as stream:
        first = next((line for line in stream if line.strip()), b"").removeprefix(BOM)
        if first.lstrip().startswith(b"["):
            return kind in LINE_FORMATS and not _whole(file)
        if kind in LINE_FORMATS:
            return True
        return _parses(first) and any(line.strip() for line in stream)


def _whole(file: Path) -> bool:
    """Whether the file is one JSON value, though it is called JSON lines."""
    with _open(file) as stream:
        return _parses(stream.read())


def _parses(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_rows(file: Path) -> list[Any]:
    with _open(file) as stream:
        text = stream.read()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"not valid JSON: {error}", where=f"{file}{line}", remedy="mend the file") from None
    if isinstance(found, dict):
        wrapped = [found[key] for key in WRAPPERS if isinstance(found.get(key), list)]
        found = wrapped[0] if len(wrapped) == 1 else [found]
    if not isinstance(found, list):
        raise UserError("the file must hold one JSON array of rows", where=str(file), remedy="or use JSON lines")
    return found


def _text_table(file: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    """Rows of a text table; a row that ends early lacks the other cells."""
    csv.field_size_limit(MOST_CELL_CHARACTERS)
    with io.TextIOWrapper(_open(file), encoding="utf-8-sig", newline="") as stream:
        try:
            header = stream.readline()
            stream.seek(0)
            delimiter = ";" if delimiter == "," and ";" in header and "," not in header else delimiter
            for row in csv.DictReader(stream, delimiter=delimiter, strict=True):
                if None in row:
                    raise UserError(
                        "a row has more cells than the header", where=str(file), remedy=f"quote {row[None]}"
                    )
                yield {name: cell for name, cell in row.items() if cell is not None}
        except UnicodeDecodeError as error:
            raise UserError(f"not UTF-8: {error}", where=str(file), remedy="save the file as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"not a readable table: {error}", where=str(file), remedy="mend the file") from None


def _table(file: Path, kind: str) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, ipc, memory_map, parquet

    try:
        if kind == ".parquet":
            batches = parquet.ParquetFile(file).iter_batches(CHUNK_ROWS)
        else:
            source = memory_map(str(file))
            try:
                batches = iter(ipc.open_stream(source))
            except ArrowException:
                opened = ipc.open_file(source)
                batches = (opened.get_batch(at) for at in range(opened.num_record_batches))
        for batch in batches:
            yield from (without_nulls(row) for row in batch.to_pylist())
    except (ArrowException, ValueError) as error:
        raise UserError(f"not a readable {kind[1:]} file ({error})", where=str(file)) from error


def decoded(row: Any) -> Any:
    """The object in a line, BLANK for an empty one; rows of other files as they are.

    Raises:
        RowError: the line holds no JSON.
    """
    if not isinstance(row, bytes):
        return row
    if not row.strip():
        return BLANK
    try:
        return json.loads(row.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
