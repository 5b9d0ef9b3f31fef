"""The manifest of a checkpoint: what it holds, file by file and range by range, and what must be true after loading."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2
NAME = re.compile(r"step-(\d{8,})")
FILE_NAME = re.compile(r"rank-\d{5}\.safetensors")


class DamagedCheckpointError(Exception):
    """A published checkpoint is not what its manifest says."""


class UnreadableStorageError(Exception):
    """The storage refuses to read what is there: nothing is known about the checkpoint."""


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
    model: fingerprint of the model that training began from.
    saved: Unix seconds.
    permanent: never pruned.
    schedule: which definition of the learning rate's curve the run began with (trainer.run.learning_rate).
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
    model: str = ""
    saved: float = 0.0
    permanent: bool = False
    schedule: int = 1

    def to_json(self) -> str:
        raw = asdict(self)
        raw["ranges"] = [list(vars(r).values()) for r in self.ranges]
        return json.dumps({"format": FORMAT, "sha256": _hash_of(raw), "manifest": raw})


def _hash_of(raw: Any) -> str:
    """SHA-256 of a JSON value, the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(raw).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a published checkpoint.

    Raises:
        DamagedCheckpointError: it is absent, changed, of another step, or names files outside the folder.
        UnreadableStorageError: the storage refuses, or another version of this program wrote it.
    """
    text = _content(folder / "manifest.json")
    try:
        signed = json.loads(text)
        if signed["format"] != FORMAT:
            raise UnreadableStorageError(f"{folder} has format {signed['format']}, this version reads {FORMAT}")
        raw = signed["manifest"]
        if _hash_of(raw) != signed["sha256"]:
            raise DamagedCheckpointError("manifest.json: content does not match its SHA-256")
        raw["ranges"] = [StoredRange(*entry) for entry in raw["ranges"]]
        manifest = Manifest(**raw)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"manifest.json: {type(error).__name__}: {error}") from None
    _check_names(folder, manifest)
    return manifest


def _check_names(folder: Path, manifest: Manifest) -> None:
    match = NAME.fullmatch(folder.name)
    if match and int(match[1]) != manifest.step:
        raise DamagedCheckpointError(f"manifest.json is of step {manifest.step}")
    for name in manifest.files:
        if not FILE_NAME.fullmatch(name):
            raise DamagedCheckpointError(f"manifest.json names the file {name!r}")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _cannot_read(file, error) from None


def _cannot_read(file: Path, error: OSError) -> Exception:
    """A file that is not there is damage; one that the storage does not give us may be whole."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return DamagedCheckpointError(f"{file.name}: {error.strerror}")
    return UnreadableStorageError(f"{file}: {error.strerror or error}")


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Cheap check: the files are there with their sizes, and no other; ranges cover every tensor, without overlap.

    Raises:
        DamagedCheckpointError
        UnreadableStorageError
    """
    shards = sorted(entry.name for entry in folder.iterdir() if FILE_NAME.fullmatch(entry.name))
    if strangers := [name for name in shards if name not in manifest.files]:
        raise DamagedCheckpointError(f"{strangers[0]} is not in the manifest")
    for name, facts in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise _cannot_read(folder / name, error) from None
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


def check_hashes(folder: Path, manifest: Manifest, rank: int = 0, size: int = 1) -> None:
    """Costly check: the files' contents; of `size` ranks, each reads its share of the files.

    Raises:
        DamagedCheckpointError
        UnreadableStorageError
    """
    for name in sorted(manifest.files)[rank::size]:
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _cannot_read(folder / name, error) from None
        if found != manifest.files[name]["sha256"]:
            raise DamagedCheckpointError(f"{name}: content does not match its SHA-256")


def verified(folder: Path, rank: int = 0, size: int = 1) -> Manifest:
    """The manifest of a checkpoint that is what it says; of `size` ranks, each hashes its share of the files.

    Raises:
        DamagedCheckpointError
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    check_hashes(folder, manifest, rank, size)
    return manifest


def published(checkpoints: Path) -> list[tuple[int, Path]]:
    """Published checkpoints as (step, folder), newest first; nothing else in the folder counts."""
    if not checkpoints.is_dir():
        return []
    found = [(NAME.fullmatch(entry.name), entry) for entry in checkpoints.iterdir() if entry.is_dir()]
    return sorted(((int(match[1]), entry) for match, entry in found if match), reverse=True)
