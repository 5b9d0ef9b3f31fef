"""Whether prepared data may be used again, and what is said when they may not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.shards.fingerprint import FORMAT, cache_key, prepared_report, same_data
from trainer.errors import UserError
from trainer.runtime.files import write_json_atomic


class Prepared:
    """A run whose data are prepared, as far as the fingerprint knows."""

    def __init__(self, folder: Path) -> None:
        self.run, self.model, self.rows = folder / "run", folder / "model", folder / "rows.jsonl"
        self.model.mkdir()
        (self.model / "tokenizer.json").write_text("{}")
        tiny.write_rows(self.rows, 4)
        (self.run / "data").mkdir(parents=True)
        write_json_atomic(self.run / "data" / "fingerprint.json", self.key())
        write_json_atomic(self.run / "data" / "preflight.json", {"rows": 4})

    def key(self, **changes: Any) -> dict[str, Any]:
        raw = tiny.trainer_config(self.model, self.rows, **changes)
        return cache_key(TrainerConfig.model_validate(raw), self.run / "data")

    def trained(self) -> None:
        (self.run / "checkpoints" / "step-00000001").mkdir(parents=True)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def test_the_same_data_are_used_again(prepared: Prepared) -> None:
    assert prepared_report(prepared.run, prepared.key()) == {"rows": 4}


@pytest.mark.parametrize(
    "change", [{"training": {"seed": 7}}, {"training": {"learning_rate": 0.1}}, {"data": {"packing": False}}]
)
def test_what_tokenising_does_not_depend_on_may_change(prepared: Prepared, change: dict[str, Any]) -> None:
    assert prepared_report(prepared.run, prepared.key(**change)) == {"rows": 4}


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"data": {"max_length": 128}}, "data.max_length: was 256, is 128"),
    ({"data": {"overlong": "split"}}, "data.overlong: was 'drop', is 'split'"),
    ({"data": {"chat_template": "chatml"}}, "template: was tokenizer, is chatml"),
    ({"model": {"added_tokens": ["<x>"]}}, "tokenizer: was"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_other_data_are_prepared_anew_and_refused_once_they_were_trained_on(
    prepared: Prepared, change: dict[str, Any], told: str
) -> None:
    assert prepared_report(prepared.run, prepared.key(**change)) is None
    prepared.trained()
    with pytest.raises(UserError, match=told):
        prepared_report(prepared.run, prepared.key(**change))


def test_changed_rows_are_other_data(prepared: Prepared) -> None:
    tiny.write_rows(prepared.rows, 4, seed=9)
    prepared.trained()
    with pytest.raises(UserError, match="content of source 1: was"):
        prepared_report(prepared.run, prepared.key())


def test_rows_that_were_only_touched_are_the_same(prepared: Prepared) -> None:
    os.utime(prepared.rows, (1, 1))
    assert prepared_report(prepared.run, prepared.key()) == {"rows": 4}


def test_rows_that_have_gone_leave_what_was_tokenised(prepared: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    prepared.rows.unlink()
    assert prepared_report(prepared.run, prepared.key()) == {"rows": 4}
    assert "the rows that were tokenised before are used" in caplog.text


def test_unchanged_files_are_not_read_again(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("trainer.data.shards.fingerprint.hashlib.file_digest", read)
    assert prepared.key()["sources"] == json.loads((prepared.run / "data" / "fingerprint.json").read_text())["sources"]


def test_data_of_an_older_format_are_trained_on_as_they_are(tmp_path: Path) -> None:
    key = {"format": FORMAT, "sources": ["a"], "settings": "{}"}
    assert same_data({**key, "format": 1}, key, tmp_path)
    assert not same_data({**key, "format": 0}, key, tmp_path)


def test_more_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UserError, match="data: 1 sources before, 2 now"):
        same_data({"format": FORMAT, "sources": ["a"]}, {"format": FORMAT, "sources": ["a", "b"]}, tmp_path)
