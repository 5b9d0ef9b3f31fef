"""The manifest of a checkpoint: what is whole is read, and every kind of damage is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint.format.manifest import (
    FORMAT,
    DamagedCheckpointError,
    Manifest,
    StoredRange,
    UnreadableStorageError,
    check_hashes,
    check_sizes,
    published,
    read_manifest,
    verified,
)

FILES = [f"rank-{rank:05d}.safetensors" for rank in range(2)]


def manifest(ranges: list[StoredRange] | None = None, **changes: Any) -> Manifest:
    files = {name: {"bytes": 8, "sha256": hashlib.sha256(b"contents").hexdigest()} for name in FILES}
    halves = [StoredRange("w", "param", start, 3, FILES[start // 3], f"param/w@{start}") for start in (0, 3)]
    facts: dict[str, Any] = {
        "step": 12,
        "attempt": 1,
        "engine": "fsdp2",
        "world_size": 2,
        "counters": {"tokens": 7},
        "data": {"fingerprint": "d", "step": 12},
        "trainer": {"name": "tiny"},
        "receipt": {"digest": {"param": "0"}},
        "shapes": {"w": [2, 3]},
        "files": files,
        "ranges": halves if ranges is None else ranges,
        **changes,
    }
    return Manifest(**facts)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000012"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"contents")
    (folder / "manifest.json").write_text(manifest().to_json())
    return folder


def test_what_was_written_is_read(checkpoint: Path) -> None:
    assert verified(checkpoint) == manifest()


def rewritten(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], object]:
    """Changes the JSON of a manifest, its hash left as it was."""

    def apply(folder: Path) -> None:
        raw = json.loads((folder / "manifest.json").read_text())
        change(raw)
        (folder / "manifest.json").write_text(json.dumps(raw))

    return apply


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "manifest.json").unlink(), "manifest.json: No such file"),
    (lambda f: (f / "manifest.json").write_text(""), "manifest.json: JSONDecodeError"),
    (lambda f: (f / "manifest.json").write_text('{"format": 2}'), "manifest.json: KeyError"),
    (rewritten(lambda raw: raw["manifest"].update(step=13)), "content does not match its SHA-256"),
    (lambda f: (f / "manifest.json").write_text(manifest(step=13).to_json()), "manifest.json is of step 13"),
    (lambda f: (f / "manifest.json").write_text(manifest(files={"../x": {}}).to_json()), "names the file '../x'"),
    (lambda f: (f / FILES[0]).unlink(), f"{FILES[0]}: No such file"),
    (lambda f: (f / FILES[0]).write_bytes(b"short"), "has 5 bytes, not 8"),
    (lambda f: (f / FILES[0]).write_bytes(b"CONTENTS"), "content does not match its SHA-256"),
    (lambda f: (f / "rank-00007.safetensors").touch(), "rank-00007.safetensors is not in the manifest"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_found_and_named(checkpoint: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(checkpoint)
    with pytest.raises(DamagedCheckpointError, match=message):
        verified(checkpoint)


def test_files_that_are_no_shards_do_not_matter(checkpoint: Path) -> None:
    (checkpoint / "notes.txt").write_text("mine")
    assert verified(checkpoint).step == 12


def test_another_format_is_no_damage(checkpoint: Path) -> None:
    rewritten(lambda raw: raw.update(format=FORMAT + 1))(checkpoint)
    with pytest.raises(UnreadableStorageError, match=f"format {FORMAT + 1}"):
        read_manifest(checkpoint)


def test_storage_that_refuses_is_no_damage(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UnreadableStorageError, match="Input/output error"):
        read_manifest(checkpoint)


def stored(*parts: tuple[int, int]) -> list[StoredRange]:
    return [StoredRange("w", "param", start, length, FILES[0], f"param/w@{start}") for start, length in parts]


@pytest.mark.parametrize("parts", [[(0, 6)], [(3, 3), (0, 3)], [(0, 1), (1, 4), (5, 1)]])
def test_ranges_that_cover_a_tensor_in_any_order_are_whole(checkpoint: Path, parts: list[tuple[int, int]]) -> None:
    check_sizes(checkpoint, manifest(stored(*parts)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0, 2), (3, 3)], "gap or overlap at element 2"),
        ([(0, 4), (3, 3)], "gap or overlap at element 4"),
        ([(1, 5)], "gap or overlap at element 0"),
        ([(0, 5)], "ends at element 5 of 6"),
        ([(0, 7)], "ends at element 7 of 6"),
    ],
)
def test_ranges_that_do_not_cover_a_tensor_are_damage(
    checkpoint: Path, parts: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(DamagedCheckpointError, match=message):
        check_sizes(checkpoint, manifest(stored(*parts)))


def test_every_kind_must_cover_every_tensor(checkpoint: Path) -> None:
    lacking = [*stored((0, 6)), StoredRange("b", "exp_avg", 0, 1, FILES[0], "x")]
    with pytest.raises(DamagedCheckpointError, match="exp_avg of w ends at element 0 of 6"):
        check_sizes(checkpoint, manifest(lacking))


def test_ranks_share_the_hashing(checkpoint: Path) -> None:
    (checkpoint / FILES[1]).write_bytes(b"CONTENTS")
    check_hashes(checkpoint, manifest(), rank=0, size=2)
    with pytest.raises(DamagedCheckpointError, match=FILES[1]):
        check_hashes(checkpoint, manifest(), rank=1, size=2)


def test_only_published_folders_count_newest_first(tmp_path: Path) -> None:
    for name in ("step-00000004", "step-123456789", "step-00000012", ".staging-step-00000016-000", "step-7", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000099").touch()
    assert [step for step, _ in published(tmp_path)] == [123456789, 12, 4]
    assert published(tmp_path / "absent") == []
