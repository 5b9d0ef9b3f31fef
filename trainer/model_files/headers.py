"""Names and shapes of a model's stored weights, from the headers of its safetensors files. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import ModelConfig
from trainer.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_HEADER_BYTES = 100_000_000


@dataclass
class Headers:
    """What the files say of themselves.

    Attributes:
        shapes: of every tensor, by the name that it is stored under.
        files: where each lies; empty for a model that is not on this machine.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def digest(self) -> str:
        """The same for files that hold the same names and shapes."""
        listed = json.dumps(sorted((name, list(shape)) for name, shape in self.shapes.items()))
        return hashlib.sha256(listed.encode()).hexdigest()


def weight_headers(model: ModelConfig) -> Headers | None:
    """Headers of the files that Transformers would read; None for a model that is neither here nor within reach.

    Raises:
        UserError: there are no safetensors weights, a file that the index names is missing, or a file is damaged.
    """
    folder = Path(model.path)
    if folder.is_dir():
        return _of_files(weight_files(folder))
    single = _cached(model, SINGLE)
    if single:
        return _of_files([single])
    index = _cached(model, INDEX)
    if index and all(_cached(model, name) for name in _listed(index)):
        return _of_files([index.parent / name for name in _listed(index)])
    return _from_hub(model)


def config_file(model: ModelConfig) -> Path | None:
    """The model's config.json, if it is on this machine."""
    folder = Path(model.path)
    file = folder / "config.json" if folder.is_dir() else _cached(model, "config.json")
    return file if file and file.is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that Transformers reads: one, or those that the index lists.

    Raises:
        UserError: there are none.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise UserError(
            f"there are no weights: neither {SINGLE} nor {INDEX}",
            where=str(folder),
            remedy="`model.path` needs safetensors weights of a causal language model; "
            "pickled ones (.bin) are never read: convert them",
        )
    files = [folder / name for name in _listed(folder / INDEX)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"the index lists files that are not there: {', '.join(absent[:5])}",
            where=str(folder / INDEX),
            remedy="copy all weight files again",
        )
    return files


def _listed(index: Path) -> list[str]:
    try:
        found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(found.values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"the index of the weights is damaged: {error!r}", where=str(index)) from None


def _of_files(files: list[Path]) -> Headers:
    found = Headers()
    for file in files:
        for name, entry in _header(file).items():
            if name != "__metadata__":
                found.shapes[name] = tuple(entry["shape"])
                found.files[name] = file
    return found


def _header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER_BYTES, size):
                raise ValueError(f"its header would be {length} bytes long")
            header: dict[str, Any] = json.loads(stream.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if size != 8 + length + end:
            raise ValueError(f"it has {size} bytes, and its header says {8 + length + end}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the weights are damaged: {error}", where=str(file), remedy="copy or download the file again"
        ) from None
    return header


def _cached(model: ModelConfig, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.path, name, revision=model.revision)
    except HFValidationError:
        return None  # no name of the hub: loading will say so
    return Path(found) if isinstance(found, str) else None


def _from_hub(model: ModelConfig) -> Headers | None:
    """Headers alone, without the gigabytes after them."""
    from huggingface_hub import get_safetensors_metadata

    try:
        found = get_safetensors_metadata(model.path, revision=model.revision)
    except Exception:  # offline, gated, no such model: what loads it says which
        return None
    shapes = {name: tuple(t.shape) for part in found.files_metadata.values() for name, t in part.tensors.items()}
    return Headers(shapes)
