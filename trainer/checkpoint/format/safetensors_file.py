"""Writes a safetensors file and hashes it on the way, so that the manifest attests to what was in memory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.fault_points import fault_point

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
SAMPLE_BYTES = 4096
"""How much of both ends of every tensor is read back from the storage."""


def write_safetensors(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write `tensors` to `file`, durable on return.

    Returns:
        {"bytes": size of the file, "sha256": of its content}.

    Raises:
        OSError: the storage refused.
    """
    parts = [_header(tensors), *(_bytes_of(tensor) for tensor in tensors.values())]
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for number, part in enumerate(parts):
            stream.write(part)
            digest.update(part)
            if number == 0:
                fault_point("file open")
            if number == len(parts) // 2:
                fault_point("file half")
        stream.flush()
        fault_point("file unsynced")
        os.fsync(stream.fileno())
    fault_point("file synced")
    _read_back(file, parts)
    fault_point("file read back")
    return {"bytes": sum(len(part) for part in parts), "sha256": digest.hexdigest()}


def _read_back(file: Path, parts: list[Any]) -> None:
    """Read both ends of every part from the storage again.

    Raises:
        OSError: the storage gives back something else than it was given.
    """
    with file.open("rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):  # from the storage, not from the page cache
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        at = 0
        for part in parts:
            for first in {0, max(0, len(part) - SAMPLE_BYTES)}:
                wanted = bytes(part[first : first + SAMPLE_BYTES])
                if os.pread(stream.fileno(), len(wanted), at + first) != wanted:
                    raise OSError(
                        errno.EIO, f"byte {at + first} reads back differently from what was written", str(file)
                    )
            at += len(part)


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
