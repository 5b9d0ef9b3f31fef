"""Faults in real processes: every drill passes on a job that is sound, and a run can be lengthened exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.drill.faults import FAULTS
from tests.support import tiny

JOB = """
name: tiny
model: {path: ./model}
data: {train: [{path: ./rows.jsonl}], max_length: 256}
training: {max_steps: 12, learning_rate: 0.01, tokens_per_step: 1024, full_determinism: true}
checkpoint: {every_steps: 6}
logging: {every_seconds: 0}
resources: {gpu: none, cpu_ranks: 2}
"""


def tuneyard(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, rows, and a job."""
    made: Path = tmp_path_factory.mktemp("drill")
    tiny.make_model(made / "model")
    tiny.write_rows(made / "rows.jsonl", 300)
    (made / "job.yaml").write_text(JOB)
    return made


@pytest.fixture(scope="module")
def drilled(folder: Path) -> subprocess.CompletedProcess[str]:
    return tuneyard("drill", "job.yaml", "--json", "--runs", "runs-drill", cwd=folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sound_job_passes_every_drill(folder: Path, drilled: subprocess.CompletedProcess[str], fault: str) -> None:
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr
    (verdict,) = (one for one in json.loads(drilled.stdout)["faults"] if one["fault"] == fault)
    assert verdict["exactness"] == "bit-exact"
    assert verdict["steps_compared"] == verdict["steps_lost"]
    assert (verdict["steps_lost"] == 0) is (fault == "preempt")
    assert 0 < verdict["detect_seconds"] < verdict["back_seconds"]
    assert list((folder / "runs-drill").iterdir()) == [], "a drill that passed leaves nothing behind"


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in found] == list(range(1, len(found) + 1))
    return [loss for _, loss in found]


def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_start(folder: Path) -> None:
    text = JOB.replace("learning_rate: 0.01", "learning_rate: 0.01, lr_scheduler_type: constant, warmup_steps: 0")
    text = text.replace("cpu_ranks: 2", "cpu_ranks: 1")
    (folder / "short.yaml").write_text(text)
    (folder / "long.yaml").write_text(text.replace("max_steps: 12", "max_steps: 20"))
    for job, runs in (("short.yaml", "runs-short"), ("long.yaml", "runs-long")):
        done = tuneyard("submit", job, "--runs", runs, cwd=folder)
        assert done.returncode == 0, done.stderr
    (short,), (long,) = (folder / "runs-short").iterdir(), (folder / "runs-long").iterdir()
    first_model = (short / "model" / "model.safetensors").read_bytes()

    refused = tuneyard("resume", short, cwd=folder)
    assert refused.returncode == 2
    assert "--max-steps N" in refused.stderr
    longer = tuneyard("resume", short, "--job", "long.yaml", cwd=folder)
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "training.max_steps" in longer.stdout
    assert losses(short) == losses(long)
    assert len(losses(short)) == 20
    assert (short / "model" / "model.safetensors").read_bytes() != first_model, "the export is of the new end"
    assert (short / "model" / "model.safetensors").read_bytes() == (long / "model" / "model.safetensors").read_bytes()
    assert json.loads((short / "plan-000.json").read_text())["trainer"]["training"]["max_steps"] == 12
    listed = json.loads(tuneyard("checkpoints", short, "--verify", "--json", cwd=folder).stdout)
    assert listed["resume_from"] == "step-00000020"
    assert all(entry["verified"] for entry in listed["checkpoints"])
