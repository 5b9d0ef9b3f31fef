"""Files that appear whole or not at all, and the display of a long phase."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from rundir.files import sync_folder
from trainer.runtime.files import read_json, write_json_atomic
from trainer.runtime.phase_progress import FILE, Counter, counting, folder_bytes


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert read_json(file) is None
    for value in ({"step": 1}, [1, 2], None):
        write_json_atomic(file, value)
        assert read_json(file) == value
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_storage_that_is_full_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json_atomic(file, {"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json_atomic(file, {"step": 2})
    assert read_json(file) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_damaged_file_is_an_error_and_no_absence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        read_json(tmp_path / "a.json")


def test_folders_can_be_made_durable(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "absent")


def test_a_phase_is_shown_after_a_second_and_removed_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("trainer.runtime.phase_progress.time.monotonic", lambda: clock[0])
    with counting(tmp_path, "tokenising", 20.0, "MB") as counter:
        counter.at(1.0)
        assert not (tmp_path / FILE).exists(), "what is over at once is not shown"
        clock[0] += 1.5
        counter.at(2.0, "30 rows")
        clock[0] += 0.5
        counter.at(3.0)
        shown = json.loads((tmp_path / FILE).read_text())
    assert (shown["phase"], shown["done"], shown["total"], shown["unit"], shown["facts"]) == (
        "tokenising",
        2.0,
        20.0,
        "MB",
        "30 rows",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_phase_that_cannot_be_shown_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("trainer.runtime.phase_progress.time.monotonic", lambda: clock[0])
    for folder in (tmp_path / "absent", None):
        counter = Counter(folder, "tokenising")
        clock[0] += 2
        counter.at(1.0)
        counter.end()


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path / "absent") == 0
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"4567")
    (tmp_path / "inner").mkdir()
    assert folder_bytes(tmp_path) == 7
