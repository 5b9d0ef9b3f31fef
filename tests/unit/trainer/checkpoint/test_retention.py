"""Retention: no setting, clock or stray folder makes it delete the newest whole checkpoint, or a permanent one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from trainer.checkpoint.format.manifest import Manifest, UnreadableStorageError, published, read_manifest
from trainer.checkpoint.inventory import inventory, prune
from trainer.checkpoint.retention import PERMANENT_MARK, outdated_damaged, remove, to_prune
from trainer.errors import UserError


def make(folder: Path, step: int, *, permanent: bool = False, content: bytes = b"x" * 64) -> Path:
    """A published checkpoint with one file and no tensors."""
    import hashlib

    checkpoint = folder / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "rank-00000.safetensors").write_bytes(content)
    files = {"rank-00000.safetensors": {"bytes": 64, "sha256": hashlib.sha256(b"x" * 64).hexdigest()}}
    manifest = Manifest(step, 0, "fsdp2", 1, {}, {}, {}, {}, {}, files, permanent=permanent)
    (checkpoint / "manifest.json").write_text(manifest.to_json())
    if permanent:
        (checkpoint / PERMANENT_MARK).touch()
    return checkpoint


def steps(folder: Path) -> list[int]:
    return [step for step, _ in published(folder)]


def test_whatever_lies_there_the_newest_and_the_permanent_stay(tmp_path: Path) -> None:
    rng = random.Random(5)
    for case in range(60):
        folder = tmp_path / str(case)
        found = sorted(rng.sample(range(1, 100), rng.randint(1, 8)))
        permanent = {step for step in found if rng.random() < 0.3}
        keep = rng.randint(1, 4)
        for step in rng.sample(found, len(found)):  # made in any order, with any time
            checkpoint = make(folder, step, permanent=step in permanent)
            os.utime(checkpoint, (rng.random() * 2e9, rng.random() * 2e9))
        (folder / "step-00000999.bak").mkdir()
        (folder / "step-00000998").write_text("no folder")
        for checkpoint in to_prune(folder, keep):
            remove(checkpoint)
        left = steps(folder)
        assert found[-1] in left
        assert permanent <= set(left)
        passing = [step for step in found if step not in permanent]
        assert set(left) - permanent == set(passing[-keep:])
        assert (folder / "step-00000999.bak").exists()


def test_pruning_counts_on_whole_checkpoints_only(tmp_path: Path) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20, content=b"y" * 64)
    with pytest.raises(UserError, match="none of the 1 checkpoints that would stay is whole"):
        prune(tmp_path, 1)
    assert steps(tmp_path) == [20, 10], "nothing was removed"
    make(tmp_path, 30)
    assert prune(tmp_path, 1) == ["step-00000020", "step-00000010"]
    with pytest.raises(UserError, match="would leave nothing"):
        prune(tmp_path, 0)


def test_a_link_is_taken_away_and_not_followed(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", 10)
    folder = tmp_path / "checkpoints"
    make(folder, 20)
    (folder / "step-00000010").symlink_to(elsewhere)
    assert prune(folder, 1) == ["step-00000010"]
    assert (elsewhere / "manifest.json").exists()


def test_a_half_deleted_checkpoint_no_longer_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20)

    def cut_off(file: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", cut_off)
    with pytest.raises(OSError, match="Input/output"):
        prune(tmp_path, 1)
    assert steps(tmp_path) == [20]


def test_only_the_last_damaged_one_is_kept_as_evidence(tmp_path: Path) -> None:
    for step, set_aside in ((30, 100), (10, 300), (20, 200)):
        make(tmp_path, step).rename(tmp_path / f".damaged-step-{step:08d}-{set_aside}")
    assert [folder.name.split("-")[2] for folder in outdated_damaged(tmp_path)] == ["00000030", "00000020"]


def test_the_inventory_names_every_problem(tmp_path: Path) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20, permanent=True)
    make(tmp_path, 30, content=b"y" * 64)
    (make(tmp_path, 40) / "manifest.json").write_text("{")
    make(tmp_path, 50).rename(tmp_path / "step-00000060")
    (make(tmp_path, 70) / "rank-00009.safetensors").touch()
    make(tmp_path, 80).rename(tmp_path / ".staging-step-00000080-001")
    quick, verified = inventory(tmp_path), inventory(tmp_path, verify=True)
    assert quick["resume_from"] == "step-00000030", "sizes do not tell"
    assert verified["resume_from"] == "step-00000020"
    problems = {entry["name"]: entry["problem"] for entry in verified["checkpoints"]}
    assert problems["step-00000070"] == "rank-00009.safetensors is not in the manifest"
    assert problems["step-00000060"] == "manifest.json is of step 50"
    assert "manifest.json: JSONDecodeError" in problems["step-00000040"]
    assert problems["step-00000030"] == "rank-00000.safetensors: content does not match its SHA-256"
    assert problems["step-00000020"] is problems["step-00000010"] is None
    states = {entry["name"]: entry["state"] for entry in verified["checkpoints"]}
    assert states[".staging-step-00000080-001"] == "staging"
    assert {entry["name"] for entry in verified["checkpoints"] if entry["permanent"]} == {"step-00000020"}


def test_one_digit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    """It would still parse, and nothing else would notice a counter that is off."""
    file = make(tmp_path, 10) / "manifest.json"
    text = file.read_text()
    assert '"attempt": 0' in text
    file.write_text(text.replace('"attempt": 0', '"attempt": 1'))
    (entry,) = inventory(tmp_path)["checkpoints"]
    assert entry["problem"] == "manifest.json: content does not match its SHA-256"


def test_another_version_of_the_format_is_no_damage(tmp_path: Path) -> None:
    file = make(tmp_path, 10) / "manifest.json"
    file.write_text(file.read_text().replace('{"format": 2', '{"format": 3', 1))
    with pytest.raises(UnreadableStorageError, match="has format 3, this version reads 2"):
        read_manifest(file.parent)
