"""Steps that are counted once the lengths are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.unit.trainer.data.test_shards_on_disk import write
from trainer.config import TrainerConfig
from trainer.data.pack.length_counts import FILE, settle_steps
from trainer.errors import UserError


def config(folder: Path, **training: Any) -> TrainerConfig:
    raw = tiny.trainer_config(folder / "model", folder / "rows.jsonl", training=training)
    return TrainerConfig.model_validate(raw)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """480 conversations of 200 tokens, one to a pack: 120 steps of four packs."""
    write(tmp_path / "data" / "train", [[("a" * 200, "0" + "1" * 199, row, 1.0) for row in range(480)]])
    return tmp_path / "data"


def test_steps_are_counted_and_lengths_kept(data: Path, tmp_path: Path) -> None:
    assert settle_steps(data, config(tmp_path, warmup_steps=10)) == "120 optimizer steps, the first 10 of them warm-up"
    assert json.loads((data / FILE).read_text()) == {"sources": [[[200, 480]]]}


@pytest.mark.parametrize(("planned", "told"), [(120, False), (150, False), (80, True), (200, True)])
def test_a_plan_that_reckoned_with_other_steps_is_named(data: Path, tmp_path: Path, planned: int, told: bool) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"steps": {"number": planned}}))
    words = settle_steps(data, config(tmp_path, warmup_steps=0))
    assert (f"the plan reckoned with about {planned}" in words) is told


def test_few_steps_are_a_warning(data: Path, tmp_path: Path) -> None:
    assert settle_steps(data, config(tmp_path, max_steps=3, warmup_steps=0)).startswith(
        "warning: only 3 optimizer steps"
    )


def test_a_schedule_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        settle_steps(data, config(tmp_path, warmup_steps=500))
