"""A sweep on this machine, of real ranks, from the command line to the best run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support import tiny

ROOT = Path(__file__).parents[3]
JOB = """
name: tiny
model: {path: ./model}
data: {train: [{path: ./rows.jsonl}], eval: {split: 0.2}, max_length: 512}
training: {max_steps: 4, learning_rate: 0.01, tokens_per_step: 2048}
resources: {gpu: none, cpu_ranks: 1}
"""


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launcher.cli import main; main()", "sweep", "job.yaml", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    line = [*command, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_bad_data_is_refused_before_any_run_starts_and_leaves_nothing(tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "job.yaml").write_text(JOB)
    done = sweep(tmp_path, "--set", "training.learning_rate=0.01,0.02")
    assert done.returncode == 2, done.stderr
    assert not list((tmp_path / "runs").iterdir())


def test_a_sweep_of_two_learning_rates_finds_the_better_one(tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "model")
    tiny.write_rows(tmp_path / "rows.jsonl", 200)
    (tmp_path / "job.yaml").write_text(JOB)
    done = sweep(tmp_path, "--set", "training.learning_rate=0.00001,0.01", "--max-parallel", "2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    idle, quick = found["runs"]
    assert [one["outcome"] for one in (idle, quick)] == ["finished", "finished"]
    assert [one["settings"] for one in (idle, quick)] == [
        {"training.learning_rate": 1e-05},
        {"training.learning_rate": 0.01},
    ]
    assert idle["eval_loss"] > quick["eval_loss"] > 0
    assert found["best"] == quick["run"]
    measured = json.loads((tmp_path / "runs" / quick["run"] / "attempts.jsonl").read_text())["longest_seconds"]
    assert measured["step"] > 0 and measured["save"] > 0
