"""Names and shapes of stored weights, from the files' headers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import ModelConfig
from trainer.errors import UserError
from trainer.model_files.headers import INDEX, SINGLE, config_file, weight_files, weight_headers


def write(file: Path, shapes: dict[str, list[int]], spare: int = 0) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end + spare))


def sharded(folder: Path) -> None:
    write(folder / "a.safetensors", {"embed": [8, 4]})
    write(folder / "b.safetensors", {"head": [8, 4], "norm": [4]})
    places = {"embed": "a.safetensors", "head": "b.safetensors", "norm": "b.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def model(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder))


def test_one_file_and_many_say_the_same(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir(), many.mkdir()
    write(one / SINGLE, {"norm": [4], "embed": [8, 4], "head": [8, 4]})
    sharded(many)
    first, second = weight_headers(model(one)), weight_headers(model(many))
    assert first is not None and second is not None
    assert first.shapes == second.shapes == {"norm": (4,), "embed": (8, 4), "head": (8, 4)}
    assert first.digest() == second.digest()
    assert second.files["norm"] == many / "b.safetensors"
    assert [file.name for file in weight_files(many)] == ["a.safetensors", "b.safetensors"]


def test_another_shape_has_another_digest(tmp_path: Path) -> None:
    digests = set()
    for shape in ([4], [2, 2], [5]):
        write(tmp_path / SINGLE, {"norm": shape})
        found = weight_headers(model(tmp_path))
        assert found is not None
        digests.add(found.digest())
    assert len(digests) == 3


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / INDEX).unlink(), "there are no weights"),
    (lambda f: (f / INDEX).write_text("{"), "the index of the weights is damaged"),
    (lambda f: (f / INDEX).write_text("{}"), "the index of the weights is damaged"),
    (lambda f: (f / "a.safetensors").unlink(), "files that are not there: a.safetensors"),
    (lambda f: (f / "a.safetensors").write_bytes(b""), "the weights are damaged"),
    (lambda f: (f / "a.safetensors").write_bytes(b"\xff" * 100), "its header would be"),
    (lambda f: (f / "a.safetensors").write_bytes((f / "a.safetensors").read_bytes()[:-1]), "and its header says"),
    (lambda f: write(f / "a.safetensors", {"embed": [8, 4]}, spare=3), "and its header says"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_files_that_are_not_whole_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    sharded(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        weight_headers(model(tmp_path))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="never read"):
        weight_headers(model(tmp_path))


def test_a_folder_without_a_configuration_has_none(tmp_path: Path) -> None:
    assert config_file(model(tmp_path)) is None
    (tmp_path / "config.json").write_text("{}")
    assert config_file(model(tmp_path)) == tmp_path / "config.json"
