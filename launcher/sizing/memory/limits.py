"""From what the allocator needs to what the GPU must have: cached blocks, context, communicators, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.hardware import Hardware
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.memory.predict import TRAINING, Phase, phases
from launcher.sizing.shape import ModelShape
from launcher.sizing.trainer_model import TrainerModel, our_trainer
from rundir.quantities import GIB

CONTEXT_GIB = 0.5
"""CUDA context with lazily loaded kernels and a cuBLAS workspace: 0.14 GiB on a T4, 0.47 on an A100."""
COMMUNICATORS_GIB = 2.0
"""NCCL's buffers and what torch.distributed opens once there are ranks: 1 to 2 GiB after the first barrier, more with
more groups."""
CPU_RUNTIME_GIB = 0.9
"""Python with torch, transformers and DeepSpeed imported: resident memory of one process on the CPU."""
CACHED_SHARE = 0.5
"""Of the blocks that only another phase than the busiest needs, the share that the caching allocator keeps. Fitted on
readings of nvidia-smi and reserved memory beside allocated peaks (fms-acceleration, fitcheck)."""
ROUNDING_SHARE = 0.07
"""Of activations: blocks that are cut and cannot be joined again. Fitted on the same readings."""
LEAST_ROUNDING = 0.03
"""The part of it that is left when memory is short and the allocator frees what it cached."""
FSDP1_ROUNDING = 0.12
"""FSDP1 gathers on a stream of its own and blocks wait for it before they can be used again: rows that went out of
memory at 0.9 of what was allocated are all of this kind."""
SPREAD = {"full": 0.12, "lora": 0.08, "qlora": 0.08}
"""Half width of the interval around an allocated peak, as a share: nine of ten rows lie inside (docs/accuracy.md)."""
COUNTED_SPREAD = 0.15
"""What is added to either side where nobody described the architecture, as a share: described models that are taken as
counted ones lie within it in nine of ten cases, and none is more than half of it above (docs/accuracy.md)."""
SAFE_SHARE = 0.9
TIGHT_SHARE = 0.97
"""Up to this share of usable memory, what is predicted fits whatever its error."""
HOPELESS_SHARE = 1.08
BESIDE = ("load", "evaluate", "save")
"""Phases beside training, which have ways around their peaks."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of the busiest rank in GiB.

    Attributes:
        phases: Every phase with its components.
        allocated: Peak of what torch allocates in training.
        reserved: What the allocator is expected to hold when memory is not short.
        process: The least that the process can do with: the criterion of fit.
        nvidia_smi: What nvidia-smi is expected to show, never more than the GPU has.
        interval: Where nine of ten allocated peaks lie.
        usable: Usable memory of the GPU; 0 when none was named.
        margin: What verdicts leave to either side because the architecture is not described.
    """

    phases: tuple[Phase, ...]
    allocated: float
    reserved: float
    process: float
    nvidia_smi: float
    interval: tuple[float, float]
    usable: float
    margin: float = 0.0

    @property
    def busiest(self) -> Phase:
        """The phase of training that sets the peak."""
        return max((phase for phase in self.phases if phase.name not in BESIDE), key=lambda phase: phase.total)

    @property
    def verdict(self) -> str:
        """`fits`, `tight` (fits if the prediction is right), `uncertain`, or `no`; empty without a GPU."""
        if not self.usable:
            return ""
        most, least = (self.process + self.margin) / self.usable, (self.process - self.margin) / self.usable
        limits = ((most, SAFE_SHARE, "fits"), (most, TIGHT_SHARE, "tight"), (least, HOPELESS_SHARE, "uncertain"))
        return next((word for share, limit, word in limits if share <= limit), "no")


def predict_memory(
    shape: ModelShape, layout: ParallelLayout, hardware: Hardware, trainer: TrainerModel | None = None
) -> Memory:
    """The memory of one rank.

    Args:
        shape: The model's.
        layout: What is trained, and how it is laid over the ranks.
        hardware: What a rank runs on; without its usable memory the verdict stays open.
        trainer: How numbers are held; `None` is our own trainer in bfloat16.
    """
    given = MemoryInput(shape=shape, layout=layout, hardware=hardware, trainer=trainer or our_trainer(layout.engine))
    return memory_of(given)


def memory_of(given: MemoryInput) -> Memory:
    """The memory of one rank, from inputs that are together already."""
    found = tuple(phases(given))
    training = [phase for phase in found if phase.name in TRAINING]
    busiest = max(training, key=lambda phase: phase.total)
    layout, usable = given.layout, given.hardware.usable_gib
    allocated = busiest.total / GIB
    activations = sum(busiest.parts.get(part, 0) for part in TRANSIENT) / GIB
    reserved = allocated + CACHED_SHARE * (_unshared(training) - allocated) + ROUNDING_SHARE * activations
    fixed = runtime_gib(given)
    process = allocated + _rounding_share(given) * activations + fixed
    shown = max(process, min(reserved + fixed, usable) if usable else reserved + fixed)
    unknown = COUNTED_SPREAD if given.shape.counted else 0.0
    spread = unknown + SPREAD["full" if layout.adapters is None else "qlora" if layout.quantization else "lora"]
    return Memory(
        phases=found,
        allocated=allocated,
        reserved=max(allocated, min(reserved, usable - fixed) if usable else reserved),
        process=process,
        nvidia_smi=shown,
        interval=(allocated * (1 - spread), allocated * (1 + spread)),
        usable=usable,
        margin=unknown * allocated,
    )


def runtime_gib(given: MemoryInput) -> float:
    """What a process takes beside its tensors: libraries on the CPU, context and communicators on a GPU."""
    if given.hardware.is_cpu:
        return CPU_RUNTIME_GIB
    return CONTEXT_GIB + (COMMUNICATORS_GIB if given.layout.ranks > 1 else 0.0)


def _rounding_share(given: MemoryInput) -> float:
    """Of activations: what the caching allocator cannot use again when memory is short; the CPU has none."""
    if given.hardware.is_cpu:
        return 0.0
    return FSDP1_ROUNDING if given.layout.engine == "fsdp1" else LEAST_ROUNDING


TRANSIENT = ("stored_activations", "layer_activations", "logits", "final_norm")


def _unshared(training: list[Phase]) -> float:
    """GiB if no component could use another's blocks."""
    largest: dict[str, int] = {}
    for phase in training:
        for part, size in phase.parts.items():
            largest[part] = max(largest.get(part, 0), size)
    return sum(largest.values()) / GIB
