"""Flat ranges: written by some ranks, read by any others, with one digest however they are cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.checkpoint import fault_points
from trainer.checkpoint.format.manifest import DamagedCheckpointError, Manifest, StoredRange
from trainer.checkpoint.format.range_reader import RangeReader
from trainer.checkpoint.format.rank_writer import BackgroundWriter, HostCopy, combined, digest
from trainer.checkpoint.format.safetensors_file import write_safetensors
from trainer.engines.base import KINDS, Range
from trainer.errors import UserError

SHAPES = {"layer.weight": (5, 4), "layer.bias": (7,)}


def state(seed: int = 0) -> dict[tuple[str, str], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {(name, kind): torch.randn(shape, generator=generator) for name, shape in SHAPES.items() for kind in KINDS}


def cut(whole: dict[tuple[str, str], torch.Tensor], ranks: int) -> list[list[Range]]:
    """Each rank's ranges, of nearly one size; some are empty where there are many ranks."""
    found: list[list[Range]] = [[] for _ in range(ranks)]
    for (name, kind), tensor in whole.items():
        flat = tensor.reshape(-1)
        for rank, own in enumerate(found):
            first, last = len(flat) * rank // ranks, len(flat) * (rank + 1) // ranks
            own.append(Range(name, kind, first, SHAPES[name], flat[first:last]))
    return found


def written(folder: Path, ranks: int) -> Manifest:
    folder.mkdir()
    records = []
    for rank, own in enumerate(cut(state(), ranks)):
        writer = BackgroundWriter(folder / f"rank-{rank:05d}.safetensors", [r for r in own if r.view.numel()], {})
        records.append(writer.result())
        assert writer.done
    ranges = [StoredRange(*entry) for record in records for entry in record["ranges"]]
    shapes = {name: shape for record in records for name, shape in record["shapes"].items()}
    receipt = {"digest": combined([record["digest"] for record in records])}
    return Manifest(1, 0, "fsdp2", ranks, {}, {}, {}, receipt, shapes, ranges=ranges)


@pytest.mark.parametrize("readers", [1, 2, 3, 8])
@pytest.mark.parametrize("writers", [1, 2, 5])
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path: Path, writers: int, readers: int) -> None:
    reader = RangeReader(tmp_path / "c", written(tmp_path / "c", writers))
    empty = {key: torch.zeros_like(tensor) for key, tensor in state().items()}
    for own in cut(empty, readers):
        reader.fill(own)
    assert all(empty[key].equal(tensor) for key, tensor in state().items())
    assert reader.whole("layer.weight").equal(state()["layer.weight", "param"])
    assert [r.kind for r in reader.stored("layer.bias")] == list(KINDS)


def test_one_digest_however_tensors_are_cut_and_another_for_any_change() -> None:
    whole = combined([digest(own) for own in cut(state(), 1)])
    assert combined([digest(own) for own in cut(state(), 4)]) == whole
    moved = state()
    moved["layer.bias", "exp_avg"][[2, 3]] = moved["layer.bias", "exp_avg"][[3, 2]]
    changed = combined([digest(own) for own in cut(moved, 4)])
    assert [kind for kind in KINDS if changed[kind] != whole[kind]] == ["exp_avg"]


def test_a_range_that_is_not_stored_is_damage(tmp_path: Path) -> None:
    manifest = written(tmp_path / "c", 2)
    manifest.ranges = [r for r in manifest.ranges if r.start == 0]
    with pytest.raises(DamagedCheckpointError, match="10 of 20 elements are stored"):
        RangeReader(tmp_path / "c", manifest).whole("layer.weight")


@pytest.mark.parametrize(("name", "shape"), [("layer.weight", (4, 5)), ("other", (2,))])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    reader = RangeReader(tmp_path / "c", written(tmp_path / "c", 1))
    wanted = Range(name, "param", 0, shape, torch.zeros(shape).reshape(-1))
    with pytest.raises(UserError, match="put the old model and method back"):
        reader.fill([wanted])


def test_the_file_is_safetensors_and_its_hash_is_of_what_lies_there(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.arange(8, dtype=torch.bfloat16)[::2],
        "c": torch.zeros(0),
        "d": torch.tensor(7),
    }
    facts = write_safetensors(tmp_path / "x.safetensors", tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[name].equal(tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_an_error_of_the_storage_is_raised_where_the_result_is_asked_for(tmp_path: Path) -> None:
    writer = BackgroundWriter(tmp_path / "absent" / "x.safetensors", cut(state(), 1)[0], {})
    assert writer.wait(10.0)
    with pytest.raises(FileNotFoundError):
        writer.result()


def test_copies_on_the_host_do_not_follow_training_and_are_used_again() -> None:
    host, weight = HostCopy(), torch.ones(4)
    source = Range("w", "param", 0, (4,), weight)
    first = host.copy([source])[0].view
    weight += 1
    assert first.tolist() == [1, 1, 1, 1]
    assert host.copy([source])[0].view.data_ptr() == first.data_ptr()


def test_fault_points_of_a_file_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(fault_points, "_watchers", [])
    fault_points.watch(seen.append)
    write_safetensors(tmp_path / "x", {"a": torch.ones(4), "b": torch.ones(4)})
    assert seen == [point for point in fault_points.POINTS if point.startswith("file ")]
