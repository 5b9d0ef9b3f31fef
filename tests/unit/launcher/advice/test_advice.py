"""`tuneyard advise`: the tables, the way that is advised, lengths that cover the data, warnings about a job file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launcher.advice import rules
from launcher.advice.advise import Situation, advise, batch_rows, covered
from launcher.advice.job_warnings import data_of, warnings
from launcher.cli import tuneyard
from launcher.errors import JobError
from launcher.jobfile import JobFile
from launcher.sizing.shape import config_by_name, shape_by_name

LLAMA = shape_by_name("llama-3.1-8b")
CHAT = Situation(shape=LLAMA, task="chat", rows=20_000, tokens=10_000_000)


@pytest.mark.parametrize(
    ("changes", "approach"),
    [
        ({}, "lora"),
        ({"rows": 20, "tokens": 10_000}, "prompt"),
        ({"rows": 150, "tokens": 50_000, "task": "classification"}, "few-shot"),
        ({"rows": 150, "tokens": 50_000, "task": "chat"}, "lora"),
        ({"task": "knowledge"}, "retrieval"),
        ({"task": "code", "tokens": 50_000_000}, "full"),
        ({"task": "code", "tokens": 50_000_000, "methods_that_fit": ("lora", "qlora")}, "lora"),
        ({"methods_that_fit": ("qlora",)}, "qlora"),
        ({"tokens": 900_000_000, "rows": 1_000_000}, "full"),
        ({"task": "knowledge", "tokens": 900_000_000, "rows": 1_000_000}, "full"),
    ],
)
def test_the_way(changes: dict[str, Any], approach: str) -> None:
    given = advise(replace(CHAT, **changes))
    assert given.approach == approach
    assert given.method in ("full", "lora", "qlora")
    assert all(item.reason and item.source for item in (*given.reasons, *given.settings))


@pytest.mark.parametrize(
    ("model", "changes", "setting", "value"),
    [
        ("llama-3.1-8b", {}, "training.learning_rate", 2e-4),
        ("llama-3.1-70b", {}, "training.learning_rate", 1e-4),
        ("llama-3.1-8b", {"task": "code", "tokens": 50_000_000}, "training.learning_rate", 2e-5),
        ("llama-3.1-70b", {"task": "code", "tokens": 50_000_000}, "training.learning_rate", 5e-6),
        ("llama-3.1-8b", {}, "training.num_train_epochs", 3),
        ("llama-3.1-8b", {"rows": 400, "tokens": 100_000}, "training.num_train_epochs", 5),
        ("llama-3.1-8b", {"rows": 2_000_000, "tokens": 400_000_000}, "training.num_train_epochs", 1),
        ("llama-3.1-8b", {"rows": 400, "tokens": 100_000}, "training.warmup_steps", 0.1),
        ("llama-3.1-8b", {}, "training.warmup_steps", 0.03),
        ("llama-3.1-8b", {}, "method.r", 16),
        ("llama-3.1-8b", {"task": "style"}, "method.r", 8),
        ("llama-3.1-8b", {"tokens": 400_000_000}, "method.r", 128),
        ("llama-3.1-8b", {}, "method.lora_alpha", 32),
        ("llama-3.1-8b", {"rows": 1000, "tokens": 300_000}, "method.lora_dropout", 0.1),
        ("llama-3.1-8b", {"rows": 500_000, "tokens": 100_000_000}, "method.lora_dropout", 0.0),
        ("llama-3.1-8b", {}, "data.max_length", 2048),
        ("llama-3.1-8b", {"lengths": [100] * 97 + [5000] * 3}, "data.max_length", 512),
        ("llama-3.1-8b", {"lengths": [100] * 90 + [5000] * 10}, "data.max_length", 8192),
    ],
)
def test_settings(model: str, changes: dict[str, Any], setting: str, value: float) -> None:
    assert advise(replace(CHAT, shape=shape_by_name(model), **changes)).value(setting) == value


def test_tables_are_ordered_complete_and_cited() -> None:
    tables = (rules.FULL_LEARNING_RATE, rules.LORA_LEARNING_RATE, rules.EPOCHS, rules.DROPOUT)
    for table in tables:
        bounds = [rule.upto for rule in table]
        assert bounds == sorted(bounds)
        assert bounds[-1] == rules.INFINITE
        assert all(rule.reason and rule.source for rule in table)
    assert rules.LEAST_RANKS.keys() == rules.TASKS.keys()


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(50_000, 3, 128), (2000, 4, 32), (300, 5, 8), (300, 1, 2), (60, 1, 1), (0, 3, 64)]
)
def test_batches_leave_enough_steps(rows: int, epochs: float, batch: int) -> None:
    assert batch_rows(rows, epochs) == batch


def test_advised_lengths_cover_the_rows() -> None:
    lengths = [50 * n for n in range(1, 200)]
    given = advise(replace(CHAT, lengths=lengths))
    assert covered(lengths, given.value("data.max_length")) >= 0.95


def test_the_step_is_a_power_of_two_of_packs() -> None:
    given = advise(replace(CHAT, lengths=[500] * 100))
    packs = given.value("training.tokens_per_step") / given.value("data.max_length")
    assert packs == 2 ** round(packs).bit_length() / 2


def test_a_step_of_less_than_a_pack_is_left_to_the_plan() -> None:
    """A number would pack ten rows of a small set into each step; `auto` leaves them apart."""
    assert advise(replace(CHAT, rows=60, tokens=12_000)).value("training.tokens_per_step") == "auto"


@pytest.mark.parametrize(
    ("changes", "message"), [({"task": "poetry"}, "unknown task"), ({"tokens": 10}, "cannot have")]
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        advise(replace(CHAT, **changes))


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., JobFile]:
    """A job on a folder of rows, with some sections replaced."""
    rows = [{"messages": [{"role": "user", "content": "w" * 4000}, {"role": "assistant", "content": "ok"}]}] * 50
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")

    def make(**sections: Any) -> JobFile:
        base = {"name": "j", "model": {"path": "llama-3.1-8b"}, "data": {"train": [{"path": "train.jsonl"}]}}
        merged = {name: {**base.get(name, {}), **value} for name, value in sections.items()}  # type: ignore[dict-item]
        return JobFile.model_validate(base | merged)

    return make


def test_data_of_a_job(job: Callable[..., JobFile], tmp_path: Path) -> None:
    made = job(data={"train": [{"path": str(tmp_path / "train.jsonl")}], "max_length": 512})
    _, lengths = data_of(made, LLAMA.vocab_size)
    assert len(lengths) == 50
    assert lengths == pytest.approx([4002 / 4.5 + 12] * 50, rel=0.01), "also what is longer than max_length"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"training": {"learning_rate": 1e-2}, "method": {"kind": "lora"}}, "training.learning_rate is 0.01"),
        ({"training": {"num_train_epochs": 40}, "method": {"kind": "lora"}}, "num_train_epochs is 40"),
        ({"method": {"kind": "full"}}, "method.kind is full"),
        ({"method": {"kind": "lora", "r": 256}}, "method.r is 256"),
        ({"method": {"kind": "lora", "lora_alpha": 1000}}, "lora_alpha / method.r"),
        ({"training": {"warmup_steps": 0.5}, "method": {"kind": "lora"}}, "warm-up"),
        ({"training": {"weight_decay": 0.9}, "method": {"kind": "lora"}}, "weight_decay"),
        ({"data": {"max_length": 512}, "method": {"kind": "lora"}}, "covers 0.0 %"),
        ({"training": {"tokens_per_step": 2_097_152}, "method": {"kind": "lora"}}, "optimizer steps"),
    ],
)
def test_warnings(job: Callable[..., JobFile], sections: dict[str, Any], words: str) -> None:
    situation = replace(CHAT, lengths=[1012] * 50)
    found = warnings(job(**sections), advise(situation), situation)
    assert any(words in warning for warning in found), found


def test_adapters_are_not_held_against_the_rate_of_a_full_fine_tune(job: Callable[..., JobFile]) -> None:
    """Where all weights should train, a job with adapters still is told what adapters take."""
    situation = replace(CHAT, tokens=900_000_000, rows=1_000_000)
    assert advise(situation).method == "full"
    lora = job(method={"kind": "lora"}, training={"learning_rate": 2e-4})
    assert not [words for words in warnings(lora, advise(situation), situation) if "learning_rate" in words]
    full = job(method={"kind": "full"}, training={"learning_rate": 2e-4})
    assert [words for words in warnings(full, advise(situation), situation) if "learning_rate" in words]


def test_a_job_as_advised_has_no_warnings(job: Callable[..., JobFile]) -> None:
    situation = replace(CHAT, lengths=[1012] * 50)
    good = job(method={"kind": "lora"}, training={"learning_rate": 2e-4, "num_train_epochs": 3})
    assert warnings(good, advise(situation), situation) == []


def test_the_command_with_a_job_file(job: Callable[..., JobFile], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    job()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config_by_name("llama-3-8b")))
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    path.write_text("name: j\nmodel: {path: model}\ndata: {train: [{path: train.jsonl}]}\n")
    result = CliRunner().invoke(tuneyard, ["advise", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["situation"]["rows"] == 50
    assert found["warnings"]


def test_the_command_without_a_job_file() -> None:
    result = CliRunner().invoke(tuneyard, ["advise", "--model", "llama-3.1-70b", "--rows", "20k", "--gpus", "1xH100"])
    assert result.exit_code == 0, result.output
    assert "Advised: qlora" in result.output
    assert isinstance(CliRunner().invoke(tuneyard, ["advise"]).exception, JobError)
