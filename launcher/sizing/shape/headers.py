"""Names and dimensions of tensors from the headers of safetensors files.

A safetensors file starts with the length of a JSON header (8 bytes, little-endian) that names every tensor with its
dimensions, so that gigabytes of weights are counted by reading kilobytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from launcher.errors import JobError

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
"""The format's own limit."""
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
BUFFER = re.compile(r"inv_freq$|masked_bias$|position_ids$")
"""What some files hold beside parameters."""


def files_of(folder: Path) -> list[Path]:
    """The safetensors files that hold a whole model; none when one of them is missing.

    Raises:
        JobError: the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return [folder / WHOLE] if (folder / WHOLE).is_file() else []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise JobError(f"{index}: no index of safetensors files", "Download the model again.") from error
    files = [folder / name for name in names]
    return files if all(file.is_file() for file in files) else []


def read_headers(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and dimensions of all parameters in safetensors files.

    Raises:
        JobError: a file is cut short or is no safetensors file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        entries = {name: entry for name, entry in read_header(path).items() if name != "__metadata__"}
        found |= {name: tuple(entry["shape"]) for name, entry in entries.items() if not BUFFER.search(name)}
    return found


def read_header(path: Path) -> dict[str, Any]:
    """The header of one safetensors file.

    Raises:
        JobError: it is cut short or is no safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        text = file.read(length) if 0 < length < LARGEST_HEADER else b""
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise JobError(f"{path}: no safetensors file, or cut short", "Download the model again.") from error
