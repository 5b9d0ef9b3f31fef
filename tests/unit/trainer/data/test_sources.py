"""Files of every kind give the same rows, whatever they are called, packed and written with."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import SourceConfig
from trainer.data.read.sources import files_of, left_out, read_chunks
from trainer.errors import UserError

ROWS = [{"prompt": "hi", "completion": "007"}, {"prompt": "é;,", "completion": "1\n2"}]


def read(path: Path) -> list[Any]:
    chunks = read_chunks([SourceConfig(path=str(path))])
    rows = [row for chunk in chunks for row in chunk.rows]
    return [json.loads(row) if isinstance(row, bytes) else row for row in rows if row != b"\n"]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(file: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    kind = file.name.split(".", 1)[1]
    if kind in ("csv", "tsv"):
        with file.open("w", newline="", encoding="utf-8-sig") as stream:
            table = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif kind == "parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), file)
    elif kind == "arrow":
        from pyarrow import Table, ipc

        table = Table.from_pylist(rows)
        with ipc.new_stream(str(file), table.schema) as stream:
            stream.write_table(table)
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress(lines(rows).encode()))
    else:
        file.write_text(lines(rows) if kind == "jsonl" else json.dumps(rows))
    return file


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "csv", "tsv", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert read(written(tmp_path / f"rows.{kind}")) == ROWS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.json", lines(ROWS)),
        ("lines.json", "\n" + lines(ROWS)),
        ("array.jsonl", json.dumps(ROWS)),
        ("array.jsonl", json.dumps(ROWS, indent=2)),
        ("bom.jsonl", "\ufeff" + json.dumps(ROWS)),
        ("wrapped.json", json.dumps({"version": 1, "data": ROWS})),
    ],
)
def test_json_is_read_by_what_is_in_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name) == ROWS


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=1))
    assert read(tmp_path / "one.json") == ROWS[:1]


def test_a_broken_line_among_lines_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(lines(ROWS) + "{broken\n")
    (chunk,) = read_chunks([SourceConfig(path=str(tmp_path / "rows.json"))])
    assert (chunk.first_row, chunk.rows[2]) == (1, b"{broken\n")


def test_semicolons_of_a_csv_are_seen(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt;completion\nhi;007\n")
    assert read(tmp_path / "rows.csv") == ROWS[:1]


def test_nulls_of_a_table_are_taken_out_at_every_depth(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = [{"a": {"x": 1}, "b": [{"y": 1}]}, {"a": {"z": 2}, "b": [{"y": 2}, {"w": 3}]}]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows


@pytest.mark.parametrize("content", [b"prompt\nab\xff\n", b"prompt\na,b\n"])
def test_damaged_text_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UserError):
        read(tmp_path / "rows.csv")


def test_a_saved_dataset_gives_its_training_split(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == ROWS
    assert read(tmp_path / "saved" / "test") == ROWS[:1]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "README.md", ".hidden.jsonl", ".cache/b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines(ROWS))
    assert files_of(str(tmp_path)) == [tmp_path / "a.jsonl"]
    assert left_out(str(tmp_path)) == [str(tmp_path / ".hidden.jsonl"), str(tmp_path / "README.md")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_long_rows_come_in_smaller_chunks(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in memory, and is tokenised at once, is bounded in characters whatever the file is written with."""
    monkeypatch.setattr("trainer.data.read.file_readers.CHUNK_BYTES", 1000)
    file = written(tmp_path / f"rows.{kind}", [{"prompt": "q" * 100, "completion": "a"}] * 25)
    chunks = list(read_chunks([SourceConfig(path=str(file))]))
    sizes = [len(chunk.rows) for chunk in chunks]
    assert sum(sizes) == 25
    assert max(sizes) <= 10
    assert [chunk.first_row for chunk in chunks] == [1 + sum(sizes[:at]) for at in range(len(sizes))]
