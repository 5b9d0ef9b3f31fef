"""Reads flat ranges back: exactly those that are asked for, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from trainer.checkpoint.format.manifest import DamagedCheckpointError, Manifest, StoredRange
from trainer.engines.base import KINDS, Range
from trainer.errors import UserError


class RangeReader:
    """The ranges of one verified checkpoint."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._shapes = manifest.shapes
        self._stored: dict[tuple[str, str], list[StoredRange]] = {}
        for stored in sorted(manifest.ranges, key=lambda r: r.start):
            self._stored.setdefault((stored.tensor, stored.kind), []).append(stored)
        self._open: dict[str, safe_open] = {}

    def fill(self, ranges: Iterable[Range]) -> None:
        """Copy stored values into the views of `ranges`.

        Raises:
            DamagedCheckpointError: a range is not stored.
            UserError: the checkpoint is of another model.
        """
        for wanted in ranges:
            self._check_shape(wanted.tensor, wanted.shape)
            with torch.no_grad():
                self._fill_one(wanted.tensor, wanted.kind, wanted.start, wanted.view)

    def whole(self, tensor: str, kind: str = "param") -> torch.Tensor:
        """A whole tensor, float32, on the CPU."""
        flat = torch.empty(torch.Size(self._shapes[tensor]).numel(), dtype=torch.float32)
        self._fill_one(tensor, kind, 0, flat)
        return flat.reshape(self._shapes[tensor])

    def stored(self, tensor: str) -> list[Range]:
        """All that is stored of a tensor, whole, on the CPU."""
        shape = tuple(self._shapes[tensor])
        return [Range(tensor, kind, 0, shape, self.whole(tensor, kind).reshape(-1)) for kind in KINDS]

    def _fill_one(self, tensor: str, kind: str, start: int, view: torch.Tensor) -> None:
        end = start + view.numel()
        filled = 0
        for stored in self._stored.get((tensor, kind), []):
            first, last = max(start, stored.start), min(end, stored.start + stored.length)
            if first < last:
                part = self._file(stored.file).get_slice(stored.key)[first - stored.start : last - stored.start]
                view[first - start : last - start].copy_(part)
                filled += last - first
        if filled != view.numel():
            raise DamagedCheckpointError(f"{kind} of {tensor}: {filled} of {view.numel()} elements are stored")

    def _check_shape(self, tensor: str, shape: tuple[int, ...]) -> None:
        """A checkpoint of another model is no damaged one: nothing is set aside for it."""
        stored = self._shapes.get(tensor)
        if stored is None or tuple(stored) != shape:
            raise UserError(
                f"{tensor} is stored with shape {stored}, the model has {list(shape)}",
                where=str(self._folder),
                remedy="put the old model and method back, or submit a new run",
            )

    def _file(self, name: str) -> safe_open:
        if name not in self._open:
            self._open[name] = safe_open(str(self._folder / name), framework="pt", device="cpu")
        return self._open[name]
