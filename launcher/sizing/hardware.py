"""The ranks' hardware as the models of memory and speed see it."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.gpus import Gpu


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What every rank runs on.

    Attributes:
        gpu: Its GPU; `None` on the CPU, or where memory is asked about in general.
        is_cpu: Whether ranks are processes on the CPU.
        usable_gib: Memory that torch can have of one GPU, GiB; 0 leaves it open whether a job fits.
        gpus_per_node: GPUs of a node; 0 is the catalogue's number.
    """

    gpu: Gpu | None = None
    is_cpu: bool = False
    usable_gib: float = 0.0
    gpus_per_node: int = 0

    def node_gpus(self, ranks: int) -> int:
        """GPUs of one node that a job of so many ranks has."""
        return min(self.gpus_per_node or (self.gpu.per_node if self.gpu else ranks), ranks)


def on_gpu(gpu: Gpu, usable_gib: float | None = None, gpus_per_node: int = 0) -> Hardware:
    """A GPU with what is usable of it: the catalogue's number unless the driver shows another."""
    usable = gpu.usable_gib if usable_gib is None else usable_gib
    return Hardware(gpu=gpu, usable_gib=usable, gpus_per_node=gpus_per_node)


CPU = Hardware(is_cpu=True)
