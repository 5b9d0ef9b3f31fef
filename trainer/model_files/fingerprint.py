"""Whether a model folder is the one that a run began from, without reading hundreds of gigabytes. Imports no torch."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from trainer.model_files.headers import MOST_HEADER_BYTES, weight_files

SAMPLES, SAMPLE_BYTES = 16, 65_536


def model_fingerprint(path: str, revision: str | None) -> str:
    """SHA-256 over a folder's config.json and, of each safetensors file, its size, header and evenly spread samples.

    Of a model on the hub, over its files in the hub's cache, so that the same files under another name or revision are
    the same model; one that is not in the cache yet is named by its path and revision.

    Raises:
        OSError: the storage refuses.
    """
    is_folder = Path(path).is_dir()
    folder = Path(path) if is_folder else _cached(path, revision)
    if folder is None:
        return f"{path}@{revision}"
    # what else lies in the cache, such as the same weights in another layout, differs from machine to machine
    files = sorted(folder.glob("*.safetensors")) if is_folder else weight_files(folder)
    digest = hashlib.sha256()
    config = folder / "config.json"
    digest.update(config.read_bytes() if config.is_file() else b"-")
    for file in files:
        digest.update(file.name.encode())
        _add_samples(digest, file)
    return digest.hexdigest()


def _cached(path: str, revision: str | None) -> Path | None:
    """The folder of the hub's cache that holds a model's files of this revision; None when they are not there."""
    try:
        return Path(snapshot_download(path, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _add_samples(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(struct.pack("<Q", size))
    with file.open("rb") as stream:
        header = min(int.from_bytes(stream.read(8), "little"), MOST_HEADER_BYTES)
        digest.update(stream.read(header))
        for number in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
