"""What may change between two attempts, what may not, and what is said about it."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.checkpoint.format.manifest import Manifest
from trainer.config import TrainerConfig
from trainer.errors import UserError
from trainer.model_files.fingerprint import model_fingerprint
from trainer.run.resume import (
    changes_the_curve,
    differences,
    exactness,
    is_fixed,
    refuse_other_run,
    refuse_past_the_end,
)


def config(**changes: Any) -> TrainerConfig:
    return TrainerConfig.model_validate(tiny.trainer_config(Path("model"), Path("rows.jsonl"), **changes))


def manifest(**changes: Any) -> Manifest:
    trainer = config(**changes).model_dump(mode="json")
    return Manifest(12, 0, "fsdp2", 1, {}, {"fingerprint": "data"}, trainer, {}, {}, model="model")


FIXED = [
    {"data": {"max_length": 128}},
    {"data": {"chat_template": "alpaca"}},
    {"data": {"overlong": "truncate"}},
    {"data": {"packing": False}},
    {"data": {"train": [{"path": "rows.jsonl", "weight": 2.0}]}},
    {"method": {"kind": "lora"}},
    {"loss": {"label_smoothing": 0.1}},
    {"training": {"seed": 1}},
    {"execution": {"packs_per_step": 8, "accumulation": 8}},
    {"model": {"dtype": "bfloat16"}},
]
FREE = [
    {"training": {"max_steps": 99}},
    {"training": {"num_train_epochs": 7}},
    {"checkpoint": {"keep": 9}},
    {"evaluation": {"every_steps": 3}},
    {"logging": {"tensorboard": False}},
    {"execution": {"engine": "zero3", "world_size": 2, "accumulation": 2}},
    {"model": {"path": "moved"}},
    {"model": {"revision": "abc"}},
    {"training": {"full_determinism": False}},
    {"data": {"train": [{"path": "moved.jsonl"}]}},
]
CURVE: list[dict[str, Any]] = [
    {"training": {"learning_rate": 5e-4}},
    {"training": {"lr_scheduler_type": "linear"}},
    {"training": {"weight_decay": 0.1}},
]


@pytest.mark.parametrize("change", FIXED, ids=str)
def test_what_makes_the_run_is_refused_with_the_difference(change: dict[str, Any]) -> None:
    (section, settings), *_ = change.items()
    name = next(iter(settings))
    with pytest.raises(UserError, match=rf"{section}\.{name}.*: was .*, is ") as refused:
        refuse_other_run(Path("step-00000012"), manifest(), config(**change), "data", "model")
    assert "put the old values" in refused.value.remedy


@pytest.mark.parametrize("change", FREE + CURVE, ids=str)
def test_what_may_change_may(change: dict[str, Any]) -> None:
    refuse_other_run(Path("step-00000012"), manifest(), config(**change), "data", "model")
    changed = differences(manifest().trainer, config(**change))
    assert changed
    assert any(changes_the_curve(name) for name in changed) is (change in CURVE)
    assert not any(is_fixed(name) for name in changed)


@pytest.mark.parametrize(("data", "model"), [("other", "model"), ("data", "other")])
def test_other_content_is_refused(data: str, model: str) -> None:
    with pytest.raises(UserError, match=r"content of the data: was|files of model\.path: were"):
        refuse_other_run(Path("step-00000012"), manifest(), config(), data, model)


def test_a_checkpoint_that_names_its_hub_model_goes_on_with_its_content() -> None:
    old = replace(manifest(), model="org/model@None")  # as versions before 0.2 wrote it
    now = config(model={"path": "org/model"})
    refuse_other_run(Path("step-00000012"), old, now, "data", "the content of its files")
    with pytest.raises(UserError, match="files of model"):
        refuse_other_run(Path("step-00000012"), old, config(model={"path": "org/other"}), "data", "other content")


def test_a_hub_model_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, folder = tmp_path / "models--org--tiny", tmp_path / "elsewhere"
    for place in (repository / "snapshots" / ("a" * 40), folder):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    of_files = model_fingerprint(str(folder), None)
    assert model_fingerprint("org/tiny", None) == model_fingerprint("org/tiny", "a" * 40) == of_files
    other_layout = repository / "snapshots" / ("a" * 40) / "consolidated.safetensors"
    other_layout.write_bytes(struct.pack("<Q", 2) + b"{}")
    assert model_fingerprint("org/tiny", None) == of_files
    assert model_fingerprint("org/not-here", "b") == "org/not-here@b"


def test_a_checkpoint_beyond_the_end_is_refused() -> None:
    refuse_past_the_end(Path("step-00000012"), manifest(), 12)
    with pytest.raises(UserError, match="at step 12, the job now ends at step 11"):
        refuse_past_the_end(Path("step-00000012"), manifest(), 11)


@pytest.mark.parametrize(
    ("change", "level", "why_not"),
    [
        ({}, "bit-exact", ""),
        ({"checkpoint": {"keep": 9}}, "bit-exact", ""),
        ({"training": {"max_steps": 99}}, "order-exact", "changed: training.max_steps"),
        ({"execution": {"engine": "zero1"}}, "order-exact", "engine was fsdp2, is zero1"),
        ({"execution": {"world_size": 2, "accumulation": 2}}, "order-exact", "world_size was 1, is 2"),
        ({"training": {"full_determinism": False}}, "order-exact", "training.full_determinism"),
        ({"training": {"learning_rate": 5e-4}}, "order-exact", "changed: training.learning_rate"),
    ],
)
def test_exactness_is_stated_with_its_reason(change: dict[str, Any], level: str, why_not: str) -> None:
    found, reason = exactness(manifest(), config(**change))
    assert found == level
    assert why_not in reason


def test_settings_that_an_older_version_did_not_have_count_as_their_defaults() -> None:
    old = manifest()
    del old.trainer["checkpoint"]["permanent_every_steps"], old.trainer["method"]["use_dora"]
    assert differences(old.trainer, config()) == {}
