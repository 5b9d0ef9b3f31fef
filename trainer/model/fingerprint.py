"""Whether a model folder is the one that a run began from, without reading hundreds of gigabytes. Imports no torch."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 16, 65_536
MOST_HEADER_BYTES = 100_000_000


def model_fingerprint(path: str, revision: str | None) -> str:
    """SHA-256 over a folder's config.json and, of each safetensors file, its size, header and evenly spread samples.

    A model on the hub is named by its path and revision.

    Raises:
        OSError: the storage refuses.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{revision}"
    digest = hashlib.sha256()
    config = folder / "config.json"
    digest.update(config.read_bytes() if config.is_file() else b"-")
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        _add_samples(digest, file)
    return digest.hexdigest()


def _add_samples(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(struct.pack("<Q", size))
    with file.open("rb") as stream:
        header = min(int.from_bytes(stream.read(8), "little"), MOST_HEADER_BYTES)
        digest.update(stream.read(header))
        for number in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
