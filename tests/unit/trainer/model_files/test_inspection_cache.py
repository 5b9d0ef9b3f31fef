"""What was found out about a model is kept for the same model, and for no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.trainer.model_files.test_headers import write
from trainer.config import ModelConfig
from trainer.model_files.headers import SINGLE
from trainer.model_files.inspection_cache import architecture_key, inspected, recall, remember, weights_key

CONFIG = {"model_type": "llama", "hidden_size": 64, "dtype": "bfloat16", "transformers_version": "5.0"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write(folder / SINGLE, {"embed": [8, 4]})
    return ModelConfig(path=str(folder))


def change(model: ModelConfig, **values: object) -> None:
    (Path(model.path) / "config.json").write_text(json.dumps({**CONFIG, **values}))


def test_what_is_remembered_is_recalled(tmp_path: Path) -> None:
    assert recall("k") is None
    remember("k", {"how": "packed"})
    assert recall("k") == {"how": "packed"}
    assert recall(None) is None


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_what_cannot_be_read_is_found_out_again(tmp_path: Path, content: str) -> None:
    remember("k", {"how": "packed"})
    (tmp_path / "cache" / "models" / "k.json").write_text(content)
    assert recall("k") is None


def test_where_nothing_can_be_kept_nothing_breaks(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is to be")
    remember("k", {"how": "packed"})
    assert recall("k") is None


@pytest.mark.parametrize(
    ("values", "same"),
    [({"transformers_version": "5.1"}, True), ({"dtype": "float32"}, True), ({"hidden_size": 65}, False)],
)
def test_the_architecture_is_known_by_what_computes(model: ModelConfig, values: dict[str, object], same: bool) -> None:
    before = architecture_key(model)
    change(model, **values)
    assert (architecture_key(model) == before) is same


def test_weights_are_known_by_names_and_shapes(model: ModelConfig) -> None:
    before = weights_key(model)
    assert before != architecture_key(model)
    write(Path(model.path) / SINGLE, {"embed": [4, 8]})
    assert weights_key(model) != before


def test_code_beside_the_weights_is_never_known(model: ModelConfig) -> None:
    own = model.model_copy(update={"trust_remote_code": True})
    assert (architecture_key(own), weights_key(own)) == (None, None)


def test_a_known_model_is_not_looked_at_again(model: ModelConfig, tmp_path: Path) -> None:
    remember(weights_key(model), {"tensors": 1})
    remember(architecture_key(model), {"how": "packed"})
    assert inspected(tmp_path / "no run", model) == {"weights": {"tensors": 1}, "verdict": {"how": "packed"}}
