"""The manifest of a checkpoint: what it holds, file by file and range by range, and what must be true after loading."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
NAME = re.compile(r"step-(\d{8,})")
FILE_NAME = re.compile(r"rank-\d{5}\.safetensors")


class DamagedCheckpointError(Exception):
    """A published checkpoint is not what its manifest says."""


@dataclass(frozen=True)
class StoredRange:
    """Where a flat range of a tensor lies: `key` in `file`."""

    tensor: str
    kind: str
    start: int
    length: int
    file: str
    key: str


@dataclass
class Manifest:
    """Attributes:
    step, attempt, engine, world_size: when and how it was saved.
    counters: running totals of the run (tokens, supervised_tokens, ...).
    data: fingerprint of the data, and the position in it.
    trainer: the trainer's configuration, as JSON.
    receipt: digests that the loaded state must reproduce.
    shapes: tensor name to shape.
    files: file name to {"bytes", "sha256"}.
    ranges: every flat range that is stored.
    """

    step: int
    attempt: int
    engine: str
    world_size: int
    counters: dict[str, float]
    data: dict[str, Any]
    trainer: dict[str, Any]
    receipt: dict[str, Any]
    shapes: dict[str, list[int]]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranges: list[StoredRange] = field(default_factory=list)
    format: int = FORMAT

    def to_json(self) -> str:
        raw = asdict(self)
        raw["ranges"] = [list(vars(r).values()) for r in self.ranges]
        return json.dumps(raw)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a published checkpoint.

    Raises:
        DamagedCheckpointError: it is absent, broken, of another format, or names files outside the folder.
    """
    try:
        raw = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise DamagedCheckpointError(f"format {raw['format']}, this version reads {FORMAT}")
        raw["ranges"] = [StoredRange(*entry) for entry in raw["ranges"]]
        manifest = Manifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"manifest.json: {type(error).__name__}: {error}") from None
    for name in manifest.files:
        if not FILE_NAME.fullmatch(name):
            raise DamagedCheckpointError(f"manifest.json names the file {name!r}")
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Cheap check: every file is there with its size, and the ranges cover every tensor without gap or overlap.

    Raises:
        DamagedCheckpointError
    """
    for name, facts in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise DamagedCheckpointError(f"{name}: {error.strerror}") from None
        if size != facts["bytes"]:
            raise DamagedCheckpointError(f"{name} has {size} bytes, not {facts['bytes']}")
    _check_coverage(manifest)


def _check_coverage(manifest: Manifest) -> None:
    covered: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for r in manifest.ranges:
        covered.setdefault((r.tensor, r.kind), []).append((r.start, r.length))
    kinds = {r.kind for r in manifest.ranges}
    for tensor, shape in manifest.shapes.items():
        for kind in kinds:
            end = 0
            for start, length in sorted(covered.get((tensor, kind), [])):
                if start != end:
                    raise DamagedCheckpointError(f"{kind} of {tensor} has a gap or overlap at element {end}")
                end += length
            size = 1
            for n in shape:
                size *= n
            if end != size:
                raise DamagedCheckpointError(f"{kind} of {tensor} ends at element {end} of {size}")


def check_hash(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Costly check: the file's content.

    Raises:
        DamagedCheckpointError
    """
    try:
        with (folder / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DamagedCheckpointError(f"{name}: {error.strerror}") from None
    if found != facts["sha256"]:
        raise DamagedCheckpointError(f"{name}: content does not match its SHA-256")


def verified(folder: Path, rank: int = 0, size: int = 1) -> Manifest:
    """The manifest of a checkpoint that is what it says; of `size` ranks, each hashes its share of the files.

    Raises:
        DamagedCheckpointError
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    for name in sorted(manifest.files)[rank::size]:
        check_hash(folder, name, manifest.files[name])
    return manifest


def published(checkpoints: Path) -> list[tuple[int, Path]]:
    """Published checkpoints as (step, folder), newest first; nothing else in the folder counts."""
    if not checkpoints.is_dir():
        return []
    found = [(NAME.fullmatch(entry.name), entry) for entry in checkpoints.iterdir() if entry.is_dir()]
    return sorted(((int(match[1]), entry) for match, entry in found if match), reverse=True)
