"""How much data there is, from its text: every format that the trainer reads, and an honest word where it cannot be."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.dataset.size import DatasetSize
from launcher.dataset.text_tokens import estimate_size, row_tokens, text_tokens
from launcher.jobfile import JobFile

ROWS = [{"instruction": "w" * 90, "input": "", "output": f"{n} " + "x" * (n % 400)} for n in range(600)]


def amounts(path: Path | str, **source: Any) -> DatasetSize:
    data = {"train": [{"path": str(path), **source}]}
    return estimate_size(JobFile.model_validate({"name": "x", "model": {"path": "m"}, "data": data}))


def write(folder: Path, kind: str) -> Path | str:
    """The rows in one format; a folder and a glob have them in several files."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind in ("jsonl", "json lines"):
        file = folder / ("a.jsonl" if kind == "jsonl" else "a.json")
        file.write_text(lines)
    elif kind == "jsonl.gz":
        file = folder / "a.jsonl.gz"
        file.write_bytes(gzip.compress(lines.encode()))
    elif kind in ("json", "wrapped"):
        file = folder / "a.json"
        file.write_text(json.dumps(ROWS if kind == "json" else {"data": ROWS}))
    elif kind == "csv":
        file = folder / "a.csv"
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind in ("parquet", "arrow"):
        return _table(folder, kind)
    else:
        (folder / "deep").mkdir()
        (folder / "1.json").write_text(json.dumps(ROWS[:200]))
        (folder / "deep" / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[200:]))
        (folder / "README.md").write_text("no rows")
        return folder if kind == "folder" else f"{folder}/**/*.json*"
    return file


def _table(folder: Path, kind: str) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    table, file = pa.Table.from_pylist(ROWS), folder / f"a.{kind}"
    if kind == "parquet":
        parquet.write_table(table, file, row_group_size=100)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return file


KINDS = ("jsonl", "json", "json lines", "wrapped", "jsonl.gz", "csv", "parquet", "arrow", "folder", "glob")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_counted(tmp_path: Path, kind: str) -> None:
    found = amounts(write(tmp_path, kind))
    assert (found.rows, found.tokens) == (600, sum(row_tokens(row) for row in ROWS))
    assert found.packs(2048) > 1
    assert not found.is_exact


@pytest.mark.parametrize("kind", ["parquet", "arrow", "json"])
def test_where_pyarrow_is_missing_that_is_said(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, kind)
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    found = amounts(file)
    assert found.is_known is (kind == "json")
    assert found.is_known or "pyarrow" in found.source


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"PAR1"), ("a.json", b"[{"), ("a.jsonl.gz", b"\x1f\x8b\x00"), ("a.csv", b""), ("a.txt", b"hello")],
)
def test_what_cannot_be_read_is_not_known(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = amounts(tmp_path / name)
    assert not found.is_known
    assert found.source


def test_large_files_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.dataset.files.MAX_BYTES", 20_000)
    monkeypatch.setattr("launcher.dataset.files.WHOLE_JSON_BYTES", 20_000)
    whole = sum(row_tokens(row) for row in ROWS)
    for kind in ("jsonl", "json", "csv"):
        (tmp_path / kind).mkdir()
        assert amounts(write(tmp_path / kind, kind)).tokens == pytest.approx(whole, rel=0.15), kind


def test_only_what_is_trained_on_counts(tmp_path: Path) -> None:
    """A column that repeats the conversation, the side that was turned down, and what `columns` leaves out."""
    plain = {"instruction": "a" * 100, "output": "b" * 100}
    for beside in ({"text": "c" * 1000}, {"weight": 1.0}):
        assert row_tokens(plain | beside) == row_tokens(plain)
    chosen = [{"role": "assistant", "content": "b" * 100}]
    assert row_tokens({"chosen": chosen, "rejected": chosen}) == row_tokens({"messages": chosen})
    (tmp_path / "a.json").write_text(json.dumps([{"q": "a" * 100, "a": "b" * 100, "notes": "c" * 1000}]))
    named = amounts(tmp_path / "a.json", columns={"prompt": "q", "completion": "a"})
    assert named.tokens == row_tokens(plain)


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("instruction,output\nq," + "word " * 40_000 + "\n")
    assert amounts(tmp_path / "a.csv").source.startswith("the data has no text"), "beyond max_length, not unreadable"


def test_tokens_by_script_and_vocabulary() -> None:
    """Measured with o200k, cl100k and Llama 2's tokenizer: English within a fifth, other scripts within a half."""
    english, chinese = "The quick brown fox jumps over the lazy dog. " * 10, "人工智能是计算机科学的一个分支" * 10
    assert text_tokens(english, 256) == len(english)
    assert text_tokens(chinese, 256) == len(chinese.encode())
    assert text_tokens(english, 131_072) == pytest.approx(len(english) / 4.5)
    assert text_tokens(english, 32_000) > text_tokens(english, 131_072)
    assert 0.7 * len(chinese) < text_tokens(chinese, 131_072) < len(chinese)
    assert row_tokens({"messages": []}) == 0
