"""`tuneyard check` counts what later plans use, whatever the format, and needs no machine that the job would fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import run as tuneyard
from tests.support import tiny

JOB = """
name: counted
model: {{path: ./model}}
data: {{train: [{{path: ./rows.parquet}}], max_length: 256}}
training: {{num_train_epochs: 3}}
resources: {{gpu: {gpu}}}
"""


def test_what_check_counts_is_kept_and_needs_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow import Table, parquet

    monkeypatch.chdir(tmp_path)
    tiny.make_model(tmp_path / "model")
    lines = tiny.write_rows(tmp_path / "rows.jsonl", 40).read_text().splitlines()
    parquet.write_table(Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "rows.parquet")
    job = tmp_path / "job.yaml"

    capsys.readouterr()
    job.write_text(JOB.format(gpu="none"))
    assert tuneyard(["plan", "job.yaml", "--json"]) == 0
    guessed = json.loads(capsys.readouterr().out)["steps"]
    assert not guessed["is_exact"] and "estimated" in guessed["source"]

    job.write_text(JOB.format(gpu="h100-80"))
    assert tuneyard(["check", "job.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["train"]["kept"] == 40, "the data is looked at, although there is no such GPU here"
    assert "h100-80" in found["why_no_plan"]

    job.write_text(JOB.format(gpu="none"))
    assert tuneyard(["plan", "job.yaml", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["steps"]
    assert known["is_exact"] and "counted" in known["source"]
    assert known["number"] == 3 * known["per_epoch"]
    assert known["packs_per_epoch"] >= found["train"]["tokens"] / 256
    assert guessed["number"] == pytest.approx(known["number"], rel=0.25), "bytes are counted as bytes"

    job.write_text(JOB.format(gpu="none").replace("max_length: 256", "max_length: 512"))
    assert tuneyard(["plan", "job.yaml", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["steps"]["is_exact"], "other settings leave other lengths"
