"""Writes a safetensors file and hashes it on the way, so that the manifest attests to what was in memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import torch

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def write_safetensors(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write `tensors` to `file`, durable on return.

    Returns:
        {"bytes": size of the file, "sha256": of its content}.

    Raises:
        OSError: the storage refused.
    """
    digest = hashlib.sha256()
    size = 0
    with file.open("wb") as stream:
        for part in (_header(tensors), *(_bytes_of(tensor) for tensor in tensors.values())):
            stream.write(part)
            digest.update(part)
            size += len(part)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _header(tensors: dict[str, torch.Tensor]) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: torch.Tensor) -> Any:
    """The tensor's memory, without a copy when it lies on the CPU in one piece."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
