"""A real run teaches the next plan: what it took is recorded, and the second prediction is nearer to it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import run as tuneyard
from tests.support import tiny

JOB = """
name: tiny
model: {path: ./model}
data:
  train: [{path: ./rows.jsonl}]
  max_length: 256
training: {max_steps: 12, learning_rate: 0.001, tokens_per_step: 2048}
resources: {gpu: none, cpu_ranks: 2, engine: zero1}
"""


def plan_of(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert tuneyard(["plan", "job.yaml", "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["prediction"]
    return found


def test_second_plan_is_nearer_to_what_the_first_run_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.make_model(tmp_path / "model", hidden_size=64, intermediate_size=128)
    tiny.write_rows(tmp_path / "rows.jsonl", 200)
    (tmp_path / "job.yaml").write_text(JOB)
    first = plan_of(capsys)
    assert first["corrections"] == {"speed": None, "memory": None}
    assert any("guess" in words for words in first["cautions"])

    assert tuneyard(["submit", "job.yaml"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    seen = json.loads((run / "observed.json").read_text())
    assert (seen["step"], seen["steps"], seen["world_size"]) == (12, 11, 2)
    assert seen["memory_bytes"]["process"] > 100 * 1024**2
    numbers = first["parameters"]
    assert seen["components_bytes"]["weights"] == pytest.approx(4 * numbers, rel=0.1)
    assert seen["components_bytes"]["moments"] == pytest.approx(8 * numbers / 2, rel=0.1), "ZeRO-1 halves them"

    assert seen["load"]["cores"] >= 1 and seen["load"]["our_cores"] > 0
    assert plan_of(capsys)["corrections"]["speed"] is None, "eleven steps of a second in all say nothing"
    longer = seen | {"steps": 1000, "load": seen["load"] | {"other_cores": 0.0}}
    (run / "observed.json").write_text(json.dumps(longer))
    assert tuneyard(["status", "last"]) == 0

    second = plan_of(capsys)
    assert second["corrections"]["speed"]["runs"] == 1
    apart = [abs(math.log(seen["step_seconds"] / found["step_seconds"])) for found in (first, second)]
    assert apart[1] < 0.1 + max(0.2 * apart[0], apart[0] - math.log(5)), "one run moves it by the guess's own interval"
    assert second["hours"] == pytest.approx(second["step_seconds"] * 12 / 3600)
    assert plan_of(capsys, "--no-correction")["step_seconds"] == first["step_seconds"]
    assert second["uncorrected"]["step_seconds"] == first["step_seconds"], "measurements never learn from corrections"

    assert tuneyard(["submit", "job.yaml", "--dry-run", "--json", "--no-correction"]) == 0
    submitted = json.loads(capsys.readouterr().out)["prediction"]
    assert submitted["corrections"] == {"speed": None, "memory": None}
    assert submitted["step_seconds"] == first["step_seconds"]

    (an_epoch, *_) = json.loads((run / "data" / "epochs.json").read_text())["steps"]
    (tmp_path / "job.yaml").write_text(JOB.replace("max_steps: 12", "num_train_epochs: 10"))
    third = plan_of(capsys)
    assert third["steps_from"] == f"counted when {run.name} tokenised the same data"
    assert third["steps"] == 10 * an_epoch, "no estimate where the lengths are known"
    tiny.write_rows(tmp_path / "rows.jsonl", 150)
    assert "estimated" in plan_of(capsys)["steps_from"], "other data since"

    report = (run / "report.html").read_text()
    assert "Predicted and observed" in report
    assert "resident memory" in report
