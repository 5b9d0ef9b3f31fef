"""Counts what tensors take, on any device, fake ones included: storages by their bytes, from making to freeing."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Inside the block every storage that an operation makes is counted until it is freed.

    Attributes:
        now: bytes of all storages that live.
        peak: the most that lived at one time since `forget_peak`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._resize: Any = None

    def __enter__(self) -> Allocations:
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resizing(self._resize)  # type: ignore[method-assign]  # FSDP2 and shards
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def forget_peak(self) -> None:
        """The peak counts from here on."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and _is_fake(args[0]):
            return _any_number(args[0].dtype)
        out = func(*args, **(kwargs or {}))
        pytree.tree_map_only(torch.Tensor, self._note, out)
        return out

    def _note(self, tensor: Any) -> None:
        local = getattr(tensor, "_local_tensor", tensor)
        if local.device.type == "meta":
            return
        storage = local.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = 0
            weakref.finalize(storage, self._freed, storage._cdata)
        self._is_now(storage._cdata, storage.nbytes())

    def _is_now(self, key: int, size: int) -> None:
        self.now += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def _resizing(self, original: Any) -> Any:
        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            done = original(storage, size)
            if storage._cdata in self._sizes:
                self._is_now(storage._cdata, size)
            return done

        return resize_


def _is_fake(tensor: Any) -> bool:
    return type(tensor).__name__ == "FakeTensor"


def _any_number(dtype: torch.dtype) -> bool | int | float:
    """What `.item()` of a fake tensor gives: norms are finite, nothing overflowed."""
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 0
