"""The layouts that a job leaves open, each with its memory and its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

from launcher.calibration.correction import Calibration, Correction, corrected_memory, corrected_speed
from launcher.calibration.store import Key, cluster_key
from launcher.dataset.size import DatasetSize, unknown_size
from launcher.jobfile.schema import JobFile
from launcher.planner.layouts.cpu_candidate import WIDTH as CPU_WIDTH
from launcher.planner.layouts.cpu_candidate import cpu_speed
from launcher.planner.layouts.gpu_candidate import PlannedGpu, adapters_of, predicted, quantization_of, usable_gib
from launcher.planner.settings.defaults import StepLayout
from launcher.site.hardware import Machine
from launcher.sizing.gpus import Gpu
from launcher.sizing.hardware import CPU, Hardware, on_gpu
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.memory import MemoryInput
from launcher.sizing.memory.limits import COUNTED_SPREAD, TIGHT_SHARE
from launcher.sizing.prediction import Prediction, widened
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.predict import SPREAD, Speed, predict_speed
from launcher.sizing.trainer_model import Attention, TrainerModel, our_trainer
from rundir.quantities import GIB
from trainer.config import ENGINES

USABLE_CPU_SHARE = 0.85
MOST_TOKENS_PER_FORWARD = 16_384
"""From here on more tokens in a forward pass make no kernel more efficient."""
MOST_TOKENS_LOOKED_AT = 4 * MOST_TOKENS_PER_FORWARD
LAUNCH_OVERHEAD_TOKENS = {"cuda": 512, "cpu": 64}
"""Fixed cost of a forward pass, as the number of tokens that would take as long."""
RECOMPUTE_FACTOR = 4 / 3
"""Checkpointing runs the forward pass twice: 4 units of compute instead of 3 (Korthikanti et al. 2022)."""
SHARDED_TIME = 1.2
"""Gathering packed weights on every use, against having them: a guess, for plans without the speed model."""

RELATIVE_TIMES = {
    "cpu": {"zero0": 1.0, "zero1": 1.1, "zero2": 1.15, "fsdp2": 1.3, "zero3": 1.5},
    "single": {"zero0": 1.0, "fsdp2": 1.02, "zero1": 1.03, "zero2": 1.04, "zero3": 1.1},
    "full": {"zero1": 1.0, "zero2": 1.03, "fsdp2": 1.05, "zero0": 1.1, "zero3": 1.15},
    "lora": {"zero0": 1.0, "zero1": 1.01, "zero2": 1.03, "fsdp2": 1.05, "zero3": 1.15},
}
"""A first order of the engines by what they move and repeat; 1 is the quickest. It ranks plans on the CPU, where zero0,
zero1 and fsdp2 are measured (quickstart, two Gloo ranks: 94, 103 and 125 ms a step), and plans for models whose shape
is not known here; the speed model ranks all others."""


@dataclass(frozen=True, kw_only=True)
class PlanningContext:
    """The machine, model and data that a plan is made for.

    Attributes:
        machine: One node.
        gpu: Its GPU; `None` on the CPU.
        shape: The model's shape; `None` when it is not known here.
        calibration: What earlier runs on this cluster have shown.
        host_bytes: Memory of one node; 0 where it is not known.
        data: How much data there is.
    """

    machine: Machine
    gpu: PlannedGpu | None
    shape: ModelShape | None
    calibration: Calibration = field(default_factory=Calibration)
    host_bytes: int = 0
    data: DatasetSize = field(default_factory=unknown_size)


@dataclass(frozen=True, kw_only=True)
class AppliedCorrections:
    """Predictions before correction, and the factors that corrected them.

    Attributes:
        key: Under which runs of this kind are kept.
        prediction: Memory before correction.
        speed: Speed before correction.
        memory_correction: The factor on memory.
        speed_correction: The factor on seconds.
    """

    key: Key
    prediction: Prediction
    speed: Speed | None
    memory_correction: Correction
    speed_correction: Correction


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to lay the step over the ranks, with what it costs.

    Attributes:
        step_layout: What is settled about the step whatever the engine: device, numbers, packs.
        shape: The model's; `None` where it is not known.
        layout: How the step is laid over the ranks.
        trainer: How our trainer holds numbers in this layout.
        hardware: What a rank runs on.
        relative_time: Seconds per token of a step where the speed model knows them, else a number that only ranks.
        prediction: Memory; `None` where the model's shape is not known.
        speed: What the speed model says; `None` for unknown models and GPUs.
        corrections: What the models said before measurements corrected it.
    """

    step_layout: StepLayout
    shape: ModelShape | None
    layout: ParallelLayout
    trainer: TrainerModel
    hardware: Hardware
    relative_time: float
    prediction: Prediction | None = None
    speed: Speed | None = None
    corrections: AppliedCorrections | None = None

    @property
    def peak_bytes(self) -> int:
        """Predicted peak; 0 where the model's shape is not known."""
        return self.prediction.peak_bytes if self.prediction else 0

    @property
    def gpu_time(self) -> float:
        """Time summed over all ranks, which is what is paid for."""
        return self.relative_time * self.layout.ranks

    @property
    def gpu(self) -> Gpu | None:
        """The GPU whose speed was predicted."""
        return self.hardware.gpu if self.speed else None

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.layout.checkpointing == "full"

    @property
    def label(self) -> str:
        """The candidate in a few words."""
        layout = self.layout
        checkpointing = "checkpointing" if self.checkpointing else "no checkpointing"
        packed = ", packed weights sharded" if layout.shard_quantized else ""
        return f"{layout.engine}, micro-batch {layout.micro_batch} x {layout.accumulation}, {checkpointing}{packed}"

    @property
    def memory_input(self) -> MemoryInput | None:
        """What the memory model is asked; `None` where the model's shape is not known."""
        if self.shape is None:
            return None
        return MemoryInput(shape=self.shape, layout=self.layout, trainer=self.trainer, hardware=self.hardware)

    def as_json(self) -> dict[str, Any]:
        """The candidate as it stands in plan.json."""
        layout = self.layout
        return {
            "engine": layout.engine,
            "nodes": layout.nodes,
            "world_size": layout.ranks,
            "micro_batch": layout.micro_batch,
            "accumulation": layout.accumulation,
            "gradient_checkpointing": self.checkpointing,
            "shard_quantized": layout.shard_quantized,
            "peak_bytes": self.peak_bytes or None,
            "step_seconds": self.speed.step_seconds if self.speed else None,
        }


def every_candidate(
    job: JobFile, step_layout: StepLayout, context: PlanningContext, *, with_speed: bool = True
) -> list[Candidate]:
    """Every layout that the job file leaves open over these ranks, whether it fits or not."""
    return [
        _candidate(job, step_layout, context, layout, with_speed) for layout in layouts(job, step_layout, context.shape)
    ]


def memory_limit_bytes(step_layout: StepLayout, context: PlanningContext) -> int:
    """What one rank may take on this machine: on GPUs the share of usable memory up to which a plan is `tight`."""
    if context.gpu and step_layout.device == "cuda":
        return int(usable_gib(context.machine, context.gpu.gpu) * TIGHT_SHARE * GIB)
    return int(context.machine.memory_bytes * USABLE_CPU_SHARE / step_layout.ranks_per_node)


def unsupported(job: JobFile, step_layout: StepLayout) -> tuple[str, ...]:
    """Engines that cannot train this."""
    return ("zero0",) if job.method.kind == "full" and step_layout.dtype == "bfloat16" else ()


def divisors(number: int) -> list[int]:
    """Divisors of a number, ascending."""
    small = [divisor for divisor in range(1, isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def time_order(job: JobFile, step_layout: StepLayout) -> str:
    """The key of `RELATIVE_TIMES` for this job."""
    if step_layout.device == "cpu":
        return "cpu"
    return "single" if step_layout.world_size == 1 else job.method.kind


def layouts(job: JobFile, step_layout: StepLayout, shape: ModelShape | None) -> Iterator[ParallelLayout]:
    """Every combination of engine, micro-batch, checkpointing and sharding that the job file leaves open."""
    asked, wanted = job.resources, job.training.gradient_checkpointing
    engines = [engine for engine in ENGINES if engine not in unsupported(job, step_layout)]
    checkpointings = ([False, True] if shape else [True]) if wanted == "auto" else [wanted]
    laid = ParallelLayout(
        nodes=step_layout.nodes,
        ranks=step_layout.world_size,
        length=job.data.max_length,
        chunk_tokens=job.loss.chunk_tokens,
        adapters=adapters_of(job, shape),
        quantization=quantization_of(job),
    )
    for engine in engines if asked.engine == "auto" else [asked.engine]:
        for micro_batch in _micro_batches(job, step_layout, shape):
            for checkpointing in checkpointings:
                for sharded in shardings(job, step_layout):
                    yield replace(
                        laid,
                        engine=engine,  # type: ignore[arg-type]
                        micro_batch=micro_batch,
                        accumulation=step_layout.packs_per_rank // micro_batch,
                        checkpointing="full" if checkpointing else "none",
                        shard_quantized=sharded,
                    )


def shardings(job: JobFile, step_layout: StepLayout) -> list[bool]:
    """Values of `shard_quantized` to try: splitting needs quantised weights, several ranks, and no DoRA."""
    wanted = job.resources.shard_quantized
    if job.method.quantization is None or job.method.use_dora or step_layout.world_size == 1:
        return [False]
    return [False, True] if wanted == "auto" else [wanted]


def _micro_batches(job: JobFile, step_layout: StepLayout, shape: ModelShape | None) -> list[int]:
    asked, length = job.resources.micro_batch, job.data.max_length
    if asked != "auto":
        return [asked]
    every = divisors(step_layout.packs_per_rank) if shape else [1]
    return [packs for packs in every if packs == 1 or packs * length <= MOST_TOKENS_LOOKED_AT]


def _candidate(
    job: JobFile, step_layout: StepLayout, context: PlanningContext, layout: ParallelLayout, with_speed: bool
) -> Candidate:
    """One layout with its predicted memory and time, corrected by runs on this cluster."""
    shape, gpu = context.shape, context.gpu if step_layout.device == "cuda" else None
    in_float32 = step_layout.dtype == "float32"
    attention: Attention = "sdpa" if step_layout.attention in ("padded", "sdpa") or in_float32 else "flash"
    usable = usable_gib(context.machine, gpu.gpu) if gpu else 0.0
    plain = Candidate(
        step_layout=step_layout,
        shape=shape,
        layout=layout,
        trainer=our_trainer(layout.engine, dtype=step_layout.dtype, optim=job.training.optim, attention=attention),
        hardware=on_gpu(gpu.gpu, usable, step_layout.ranks_per_node) if gpu else CPU,
        relative_time=_relative_time(job, step_layout, layout),
    )
    given = plain.memory_input
    if shape is None or given is None:
        return plain
    speed, width = _speed(job, plain, context) if with_speed else (None, 1.0)
    key = Key(
        cluster=cluster_key(job.cluster.profile),
        gpu="cpu" if gpu is None else gpu.gpu.name if gpu.is_known else context.machine.gpu_names[0],
        engine=layout.engine,
        family=family_of(job),
    )
    corrections = AppliedCorrections(
        key=key,
        prediction=predicted(given),
        speed=speed,
        memory_correction=context.calibration.memory(key),
        speed_correction=context.calibration.speed(key, width) if speed else Correction(),
    )
    memory = corrected_memory(corrections.prediction, corrections.memory_correction, step_layout.device)
    timed = corrected_speed(speed, corrections.speed_correction) if speed else None
    # A GPU that the catalogue lacks is timed as the stand-in: that ranks plans, but is not shown as their speed.
    is_known = gpu is None or gpu.is_known
    return replace(
        plain,
        prediction=widened(memory, COUNTED_SPREAD if shape.counted else 0.0),
        relative_time=1 / timed.tokens_per_second if timed and gpu else plain.relative_time,
        speed=timed if is_known else None,
        corrections=corrections,
    )


def _speed(job: JobFile, candidate: Candidate, context: PlanningContext) -> tuple[Speed, float]:
    """Speed before correction, and the factor to either side within which nine in ten measurements lie.

    Conversations of a pack do not attend to each other: their mean length counts where it is known. Without packing a
    pack is a conversation: no longer than that on average, whatever memory the longest one takes.
    """
    assert context.shape
    step_layout, layout = candidate.step_layout, candidate.layout
    if not job.data.packing and step_layout.data.is_known:
        layout = replace(layout, length=min(layout.length, math.ceil(step_layout.data.mean)))
    if candidate.hardware.gpu is None:
        threads = max(1, context.machine.num_cores // step_layout.ranks_per_node)
        return cpu_speed(context.shape, layout, threads, RELATIVE_TIMES["cpu"][layout.engine]), CPU_WIDTH
    speed = predict_speed(
        context.shape, layout, candidate.hardware, candidate.trainer, document_length=step_layout.data.mean
    )
    is_measured = candidate.hardware.gpu.is_measured and not context.shape.counted and step_layout.dtype == "bfloat16"
    return speed, SPREAD["measured" if is_measured else "estimated"]


def family_of(job: JobFile) -> str:
    """The method as a key of measurements: quantised bases differ from others in time and memory."""
    return {"nf4": "qlora", "int8": "int8"}.get(job.method.quantization or "", job.method.kind)


def _relative_time(job: JobFile, step_layout: StepLayout, layout: ParallelLayout) -> float:
    """Relative time per token over all ranks: a first order for ranking, not a speed model."""
    filled = min(layout.tokens, MOST_TOKENS_PER_FORWARD)
    launches = 1 + LAUNCH_OVERHEAD_TOKENS[step_layout.device] / filled
    factors = (RECOMPUTE_FACTOR if layout.checkpointing == "full" else 1) * (
        SHARDED_TIME if layout.shard_quantized else 1
    )
    return RELATIVE_TIMES[time_order(job, step_layout)][layout.engine] * launches * factors / step_layout.world_size
