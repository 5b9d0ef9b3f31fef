"""Writes one rank's part of a checkpoint beside training: a copy on the host first, then file, hash and digest."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.format.safetensors_file import write_safetensors
from trainer.engines.base import Range

DIGEST_PRIME = 65_521


class HostCopy:
    """Copies ranges into host memory that is kept from one save to the next, page-locked when they come from a GPU.

    The copies of one save are overwritten by the next, which therefore begins only after the writer is done.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str, int], torch.Tensor] = {}

    def copy(self, ranges: list[Range]) -> list[Range]:
        """The same ranges over host memory. Waits for the copies, not for anything else on the device."""
        copies = [Range(r.tensor, r.kind, r.start, r.shape, self._copied(r)) for r in ranges]
        for device in {r.view.device for r in ranges if r.view.device.type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _copied(self, source: Range) -> torch.Tensor:
        key = (source.tensor, source.kind, source.start)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != source.view.shape:
            pinned = source.view.device.type == "cuda"
            buffer = torch.empty(source.view.shape, dtype=source.view.dtype, pin_memory=pinned)
            self._buffers[key] = buffer
        return buffer.copy_(source.view, non_blocking=True)


class BackgroundWriter:
    """Writes ranges to a file in a thread of its own.

    Args:
        file: where to; durable once `result` returns.
        ranges: on the host; must not change until then.
        extra: small tensors that go into the same file.
    """

    def __init__(self, file: Path, ranges: list[Range], extra: dict[str, torch.Tensor]) -> None:
        self._file, self._ranges, self._extra = file, ranges, extra
        self._record: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """The file is written, or has failed."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; whether it is done."""
        self._thread.join(seconds)
        return self.done

    def result(self) -> dict[str, Any]:
        """What was written: file, its size and hash, ranges, shapes, digest. Waits for the thread.

        Raises:
            OSError: the storage refused.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._record

    def _run(self) -> None:
        try:
            self._record = self._write()
        except BaseException as error:  # raised again in `result`, where the ranks agree on it
            self._error = error

    def _write(self) -> dict[str, Any]:
        tensors = {f"{r.kind}/{r.tensor}@{r.start}": r.view for r in self._ranges}
        facts = write_safetensors(self._file, tensors | self._extra)
        stored = [
            [r.tensor, r.kind, r.start, r.view.numel(), self._file.name, key]
            for key, r in zip(tensors, self._ranges, strict=True)
        ]
        shapes = {r.tensor: list(r.shape) for r in self._ranges}
        return {
            "file": self._file.name,
            "facts": facts,
            "ranges": stored,
            "shapes": shapes,
            "digest": digest(self._ranges),
        }


def digest(ranges: list[Range]) -> dict[str, int]:
    """Per kind, the sum over elements of bit pattern times a weight by position, modulo 2**64.

    The same however the tensors are cut into ranges, so it compares states across engines and numbers of ranks.
    """
    totals: dict[str, int] = {}
    for r in ranges:
        bits = r.view.detach().float().contiguous().view(torch.int32).to(torch.int64)
        places = torch.arange(r.start, r.start + len(bits), device=bits.device, dtype=torch.int64)
        weighted = int((bits * (places % DIGEST_PRIME + 1)).sum())
        totals[r.kind] = (totals.get(r.kind, 0) + weighted) % 2**64
    return totals


def combined(parts: list[dict[str, int]]) -> dict[str, str]:
    kinds = sorted({kind for part in parts for kind in part})
    return {kind: f"{sum(part.get(kind, 0) for part in parts) % 2**64:016x}" for kind in kinds}
