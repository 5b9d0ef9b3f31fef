"""What trains is counted by kind, and a plan that counted otherwise is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.config import TrainerConfig

pytestmark = pytest.mark.models


def counts(folder: Path, **method: Any) -> dict[str, int]:
    from trainer.metrics.trained_parameters import trained_counts
    from trainer.model.build import build_model

    raw = tiny.trainer_config(folder, folder / "rows.jsonl", method=method)
    return trained_counts(build_model(TrainerConfig.model_validate(raw), weights=False))


def test_trained_parameters_are_counted_by_kind(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "model", attention_bias=True)
    config = json.loads((folder / "config.json").read_text())
    hidden, layers, words = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    lora = {"kind": "lora", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "bias": "all"}
    assert counts(folder, **lora) == {
        "adapters": layers * 4 * 2 * hidden,
        "biases": layers * 2 * (hidden + keys),
        "whole_modules": words * hidden,
    }
    assert set(counts(folder, kind="full")) == {"weights"}


@pytest.mark.parametrize(
    ("planned", "is_said"), [(32_520, False), (32_500, False), (3_840, True), (50_000, True), (None, False)]
)
def test_a_plan_that_counted_otherwise_is_said(tmp_path: Path, planned: int | None, is_said: bool) -> None:
    from trainer.metrics.trained_parameters import differs_from_plan

    prediction = planned and {"trainable_parameters": planned}
    (tmp_path / "plan.json").write_text(json.dumps({"trainer": {}, "prediction": prediction}))
    caution = differs_from_plan(tmp_path, {"adapters": 32_000, "biases": 520})
    assert bool(caution) == is_said
    assert not is_said or f"{planned:,}" in caution
