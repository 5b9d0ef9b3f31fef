"""Folders that are not there, may not be looked into, or belong to a user without a home: said, never a traceback."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from launcher.cli import run
from launcher.runs.registry import register, registered

TOO_LONG = "x" * 300
"""No file can be called like that: a look at it fails as one at a folder that may not be read."""


@pytest.mark.parametrize("path", ["~nobody-is-called-so/rows.jsonl", f"{TOO_LONG}/rows.jsonl"])
def test_a_path_that_cannot_be_looked_at_is_a_finding_with_its_line(path: str, write_job, capsys) -> None:
    job = write_job()
    job.write_text(job.read_text().replace("train.jsonl", path))
    assert run(["plan", str(job)]) == 2
    assert "job.yaml:4: data.train[0].path: no such file" in capsys.readouterr().err


def test_a_hub_cache_that_cannot_be_read_holds_nothing(write_job, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", f"/tmp/{TOO_LONG}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = write_job()
    job.write_text(job.read_text().replace("path: model", "path: org/model"))
    assert run(["plan", str(job)]) == 0
    assert "cannot be read" in capsys.readouterr().out


def test_a_folder_that_storage_refuses_is_the_machines_fault(write_job, capsys) -> None:
    assert run(["submit", str(write_job()), "--runs", f"/tmp/{TOO_LONG}"]) == 3
    assert "File name too long" in capsys.readouterr().err


def test_who_has_no_home_plans_and_keeps_nothing(
    write_job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TUNEYARD_MEASURED", "TUNEYARD_COUNTED", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run(["plan", str(write_job())]) == 0
    assert run(["list"]) == 0 and run(["calibration", "--runs", str(tmp_path)]) == 0
    assert registered() == []
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    register(tmp_path)
