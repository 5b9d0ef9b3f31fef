"""Steps of epochs that were counted before, for the same order only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.pack.epoch_steps import FILE, known_steps, order_key, remember_steps


def key(fingerprint: str = "data", **changes: Any) -> str:
    raw = tiny.trainer_config(Path("model"), Path("rows.jsonl"), **changes)
    return order_key(fingerprint, TrainerConfig.model_validate(raw))


def test_what_was_counted_is_known_for_the_same_order(tmp_path: Path) -> None:
    assert known_steps(tmp_path, key()) == []
    remember_steps(tmp_path, key(), [7, 8])
    assert known_steps(tmp_path, key()) == [7, 8]
    assert known_steps(tmp_path, key("other")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 5}},
        {"execution": {"packs_per_step": 8, "accumulation": 8}},
        {"data": {"max_length": 128}},
        {"data": {"packing": False}},
        {"data": {"eval": {"split": 0.1}}},
        {"data": {"train": [{"path": "rows.jsonl", "weight": 2.0}]}},
    ],
)
def test_whatever_the_order_depends_on_is_in_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change", [{"training": {"learning_rate": 5e-4}}, {"execution": {"world_size": 2, "accumulation": 2}}]
)
def test_what_it_does_not_depend_on_is_not(change: dict[str, Any]) -> None:
    assert key(**change) == key()


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_damaged_file_is_counted_again(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert known_steps(tmp_path, key()) == []


def test_what_cannot_be_kept_costs_nothing(tmp_path: Path) -> None:
    remember_steps(tmp_path / "absent", key(), [1])
