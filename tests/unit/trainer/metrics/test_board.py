"""What TensorBoard shows of a run: groups, the loss first, memory, MFU, hyper-parameters and the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.metrics.step_metrics import StepFacts, StepMetrics


class OneRank:
    """What meters ask of the ranks."""

    is_first = True

    @staticmethod
    def sum(values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float64)


def board_of(run: Path) -> Any:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def test_groups_memory_mfu_hyper_parameters_and_the_job(tmp_path: Path) -> None:
    config = tiny.trainer_config(tmp_path / "model", tmp_path / "rows.jsonl")
    run = tiny.make_run(tmp_path / "run", config)
    plan = {"trainer": config, "prediction": {"mfu": 0.4, "tokens_per_second": 1000.0}}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "job.yaml").write_text("name: tiny\n")
    ranks: Any = OneRank()
    meters = StepMetrics(run, TrainerConfig.model_validate(config), ranks, 0, 0)
    for step in (1, 2):
        facts = StepFacts(step, step / 2, 1e-3, 800, 300, 0.9, 0.01)
        meters.add(facts, {"loss": torch.tensor(2.0 / step)}, torch.tensor(1.0))
    meters.flush()
    meters.write({"step": 2, "eval_loss": 1.5, "eval_tokens": 100})
    meters.close()

    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == [2.0, 1.0]
    assert lines[0]["mfu"] == pytest.approx(0.4 * lines[0]["tokens_per_second"] / 1000)
    assert lines[0]["memory_bytes"] > 100 * 2**20
    events = board_of(run)
    shown = events.Tags()["scalars"]
    assert shown[0] == "train/loss"
    assert {name.partition("/")[0] for name in shown} == {"train", "eval", "system"}
    assert {"train/learning_rate", "train/grad_norm", "eval/loss", "system/mfu", "system/memory_bytes"} < set(shown)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    texts = {name.partition("/")[0]: events.Tensors(name)[0].tensor_proto for name in events.Tags()["tensors"]}
    assert b"name: tiny" in texts["job"].string_val[0]
    assert b"learning_rate" in texts["settings"].string_val[0]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_a_run_whose_plan_knows_no_gpu_has_no_mfu(tmp_path: Path) -> None:
    config = tiny.trainer_config(tmp_path / "model", tmp_path / "rows.jsonl", logging={"tensorboard": False})
    run = tiny.make_run(tmp_path / "run", config)
    ranks: Any = OneRank()
    meters = StepMetrics(run, TrainerConfig.model_validate(config), ranks, 0, 0)
    meters.add(StepFacts(1, 0.5, 1e-3, 800, 300, 0.9, 0.01), {"loss": torch.tensor(2.0)}, torch.tensor(1.0))
    line = meters.flush()
    assert line is not None and "mfu" not in line
    assert not (run / "tensorboard").exists()


def test_a_board_that_cannot_be_written_costs_the_curves_only(tmp_path: Path, caplog: Any) -> None:
    config = tiny.trainer_config(tmp_path / "model", tmp_path / "rows.jsonl")
    run = tiny.make_run(tmp_path / "run", config)
    (run / "tensorboard").touch()  # where a folder is to be
    ranks: Any = OneRank()
    meters = StepMetrics(run, TrainerConfig.model_validate(config), ranks, 0, 0)
    meters.add(StepFacts(1, 0.5, 1e-3, 800, 300, 0.9, 0.01), {"loss": torch.tensor(2.0)}, torch.tensor(1.0))
    assert meters.flush() is not None
    assert "nothing is written for TensorBoard" in caplog.text
