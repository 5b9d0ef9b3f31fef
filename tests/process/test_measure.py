"""`tuneyard measure`: one rank of N alone takes what it takes among the others; counting agrees with running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from launcher.calibration.store import read, store_path
from launcher.cli import run as tuneyard
from tests.support import tiny
from tests.support.ranks import run_on_ranks
from tests.support.steps import Bench, job, prepared_run

ROOT = Path(__file__).parents[2]
WIDE = {"hidden_size": 64, "intermediate_size": 128}
LORA = {"kind": "lora", "r": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared_run(tmp_path_factory.mktemp("measured"), **WIDE)


CASES = [
    ("fsdp2", {"kind": "full"}, False),
    ("zero3", {"kind": "full"}, False),
    ("zero2", {**LORA, "quantization": "nf4"}, True),
    ("zero0", {**LORA, "quantization": "int8"}, False),
]


def measure_second_rank(run_dir: str, counted: bool) -> dict[str, Any]:
    """What `python -m trainer measure` does, in a process that has loaded everything already."""
    from trainer.config import read_trainer_config
    from trainer.measure.one_rank import measure

    return measure(read_trainer_config(Path(run_dir)), 1, counted)


@pytest.fixture(scope="module")
def measured(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The second of two ranks of a case, alone: run on this machine, or counted; each once for all tests."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def measured_once(case: int, counted: bool) -> dict[str, Any]:
        engine, method, sharded = CASES[case]
        execution = {"engine": engine, "world_size": 2, "accumulation": 2, "shard_quantized": sharded}
        config = tiny.trainer_config(Path(made["model"]), Path(made["rows"]), method=method, execution=execution)
        config["training"]["gradient_checkpointing"] = True
        run = tiny.make_run(folder / f"run-{case}-{counted}", config)
        (found,) = run_on_ranks(measure_second_rank, 1, str(run), counted, distributed=False)
        return dict(found)

    return measured_once


@pytest.mark.parametrize("case", range(len(CASES)), ids=[engine for engine, *_ in CASES])
def test_counting_agrees_with_running(measured: Callable[..., dict[str, Any]], case: int) -> None:
    real, counted = measured(case, counted=False), measured(case, counted=True)
    assert counted["components_bytes"] == real["components_bytes"]
    assert counted["phases_bytes"]["step"] == pytest.approx(real["phases_bytes"]["step"], rel=1e-3)
    # the CPU's attention and that of GPUs keep other tensors, of small layers more than the rest
    assert counted["allocated_bytes"] == pytest.approx(real["allocated_bytes"], rel=0.1)
    assert real["step_seconds"] > 0
    assert counted["step_seconds"] is None


def test_the_trainers_command_leaves_its_result_in_the_run(
    tmp_path: Path, made: dict[str, str], measured: Callable[..., dict[str, Any]]
) -> None:
    engine, method, _ = CASES[0]
    execution = {"engine": engine, "world_size": 2, "accumulation": 2}
    config = tiny.trainer_config(Path(made["model"]), Path(made["rows"]), method=method, execution=execution)
    config["training"]["gradient_checkpointing"] = True
    run = tiny.make_run(tmp_path / "run", config)
    command = [sys.executable, "-m", "trainer", "measure", str(run), "--rank", "1", "--counted"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((run / "measured.json").read_text()) == measured(0, counted=True)


def among_others(made: dict[str, str], engine: str, sharded: bool, method: dict[str, Any]) -> dict[str, int]:
    from trainer.config import TrainerConfig
    from trainer.metrics.observed import held_bytes

    raw = job(made, engine, 2, method=method).model_dump()
    raw["execution"]["shard_quantized"] = sharded
    bench = Bench(made, TrainerConfig.model_validate(raw))
    bench.step(0, 1e-3)
    return held_bytes(bench.engine)


@pytest.mark.parametrize("case", range(len(CASES)), ids=[engine for engine, *_ in CASES])
def test_alone_a_rank_holds_what_it_holds_among_others(
    made: dict[str, str], measured: Callable[..., dict[str, Any]], case: int
) -> None:
    engine, method, sharded = CASES[case]
    (_, second) = run_on_ranks(among_others, 2, made, engine, sharded, method)
    alone = measured(case, counted=True)["components_bytes"]
    assert {name: alone[name] for name in second} == pytest.approx(second, rel=0.01, abs=64)


JOB = """
name: tiny
model: {path: ./model}
method: {kind: lora}
data:
  train: [{path: ./rows.jsonl}]
  max_length: 1024
training: {max_steps: 12}
resources: {engine: fsdp2}
"""


def test_a_plan_for_gpus_is_measured_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}
    tiny.make_model(tmp_path / "model", **sizes)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "job.yaml").write_text(JOB)
    capsys.readouterr()  # what libraries said when the model was made
    assert tuneyard(["measure", "job.yaml", "--gpu", "8xH100-80", "--rank", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["counted"], found["rank"], found["world_size"]) == (True, 3, 8)
    apart = {row["name"]: row["predicted"] / row["measured"] for row in found["compared"]}
    assert apart["weights"] == pytest.approx(1, abs=0.02)
    assert apart["moments"] == pytest.approx(1, abs=0.02)
    (kept,) = read(store_path(None))
    assert kept.key.gpu == "H100-80"
    assert kept.memory
    assert kept.memory[1] == found["allocated_bytes"]

    assert tuneyard(["measure", "job.yaml", "--gpu", "8xH100-80", "--rank", "8"]) == 2
    assert "the plan has 8 ranks" in capsys.readouterr().err
    assert tuneyard(["measure", "job.yaml", "--gpu", "8xH100-80", "--real"]) == 3
    assert "no GPU on this machine" in capsys.readouterr().err
