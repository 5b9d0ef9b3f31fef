"""The layouts that a job leaves open, each with its memory and its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

from launcher.calibration.correction import Correction, Learned, corrected_memory, corrected_speed
from launcher.calibration.store import Key, cluster_key
from launcher.dataset.amounts import Amounts, no_amounts
from launcher.jobfile.schema import JobFile
from launcher.planner.cpu_candidate import WIDTH as CPU_WIDTH
from launcher.planner.cpu_candidate import cpu_speed
from launcher.planner.defaults import Basics
from launcher.planner.gpu_candidate import PlannedGpu, predicted, sizing_job, timed, usable_gib, whole_modules
from launcher.site.hardware import Machine
from launcher.sizing.cpu_memory import FP32_BYTES, Layout, LoraLayout, predict
from launcher.sizing.memory import Job
from launcher.sizing.memory.limits import COUNTED_SPREAD, TIGHT_SHARE
from launcher.sizing.prediction import Prediction, widened
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.jobs import speed_layout
from launcher.sizing.speed.layout import SpeedLayout
from launcher.sizing.speed.predict import SPREAD, Speed, predict_speed
from rundir.quantities import GIB
from trainer.config import ENGINES

COMPUTE_BYTES = {"bfloat16": 2, "float32": 4}
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
class Ground:
    """What candidates are laid over.

    Attributes:
        machine: One node.
        gpu: Its GPU; `None` on the CPU.
        shape: The model's shape; `None` when it is not known here.
        learned: What earlier runs on this cluster have shown.
        host_bytes: Memory of one node; 0 where it is not known.
        data: How much data there is.
    """

    machine: Machine
    gpu: PlannedGpu | None
    shape: ModelShape | None
    learned: Learned = field(default_factory=Learned)
    host_bytes: int = 0
    data: Amounts = field(default_factory=no_amounts)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What the models alone say of a candidate, and how that was corrected.

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


@dataclass(frozen=True)
class Setting:
    """One combination of what the job file leaves open."""

    engine: str
    micro_batch: int
    checkpointing: bool
    sharded: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to lay the step over the ranks, with what it costs.

    Attributes:
        basics: Nodes, ranks, and the step that it divides.
        relative_time: Seconds per token of a step where the speed model knows them, else a number that only ranks.
        speed: What the speed model says; `None` on the CPU and for unknown models and GPUs.
        layout: The candidate as the speed model has it.
        sized: The candidate as the memory model has it.
        learning: What the models said before measurements corrected it.
    """

    basics: Basics
    engine: str
    micro_batch: int
    accumulation: int
    checkpointing: bool
    shard_quantized: bool = False
    relative_time: float
    prediction: Prediction | None
    speed: Speed | None = None
    layout: SpeedLayout | None = None
    sized: Job | None = None
    learning: Learning | None = None

    @property
    def peak_bytes(self) -> int:
        """Predicted peak; 0 where the model's shape is not known."""
        return self.prediction.peak_bytes if self.prediction else 0

    @property
    def gpu_time(self) -> float:
        """Time on all ranks together, which is what costs."""
        return self.relative_time * self.basics.world_size

    @property
    def label(self) -> str:
        """The candidate in a few words."""
        checkpointing = "checkpointing" if self.checkpointing else "no checkpointing"
        packed = ", packed weights sharded" if self.shard_quantized else ""
        return f"{self.engine}, micro-batch {self.micro_batch} x {self.accumulation}, {checkpointing}{packed}"

    def as_json(self) -> dict[str, Any]:
        """The candidate as it stands in plan.json."""
        return {
            "engine": self.engine,
            "nodes": self.basics.nodes,
            "world_size": self.basics.world_size,
            "micro_batch": self.micro_batch,
            "accumulation": self.accumulation,
            "gradient_checkpointing": self.checkpointing,
            "shard_quantized": self.shard_quantized,
            "peak_bytes": self.peak_bytes or None,
            "step_seconds": self.speed.step_seconds if self.speed else None,
        }


def every_candidate(job: JobFile, basics: Basics, ground: Ground, *, with_speed: bool = True) -> list[Candidate]:
    """Every layout that the job file leaves open over these ranks, whether it fits or not."""
    make = _on_gpu if _is_modelled(basics, ground) else _by_order
    return [make(job, basics, ground, with_speed, setting) for setting in _settings(job, basics, ground.shape)]


def memory_limit_bytes(basics: Basics, ground: Ground) -> int:
    """What one rank may take on this machine: on GPUs the share of usable memory up to which a plan is `tight`."""
    if ground.gpu and basics.device == "cuda":
        return int(usable_gib(ground.machine, ground.gpu.gpu) * TIGHT_SHARE * GIB)
    return int(ground.machine.memory_bytes * USABLE_CPU_SHARE / basics.ranks_per_node)


def unsupported(job: JobFile, basics: Basics) -> tuple[str, ...]:
    """Engines that cannot train this."""
    return ("zero0",) if job.method.kind == "full" and basics.dtype == "bfloat16" else ()


def divisors(number: int) -> list[int]:
    """All whole numbers that divide a number."""
    small = [divisor for divisor in range(1, isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def situation(job: JobFile, basics: Basics) -> str:
    """Which order of the engines holds."""
    if basics.device == "cpu":
        return "cpu"
    return "single" if basics.world_size == 1 else job.method.kind


def _is_modelled(basics: Basics, ground: Ground) -> bool:
    """Whether the sizing models know this: bfloat16 on GPUs, with a shape; float32 is `cpu_memory`'s."""
    return basics.device == "cuda" and basics.dtype == "bfloat16" and ground.shape is not None and bool(ground.gpu)


def _settings(job: JobFile, basics: Basics, shape: ModelShape | None) -> Iterator[Setting]:
    """Every combination of engine, micro-batch, checkpointing and sharding that the job file leaves open."""
    asked = job.resources
    every = [engine for engine in ENGINES if engine not in unsupported(job, basics)]
    engines = every if asked.engine == "auto" else [asked.engine]
    wanted = job.training.gradient_checkpointing
    for engine in engines:
        for micro_batch in _micro_batches(job, basics, shape):
            for checkpointing in ([False, True] if shape else [True]) if wanted == "auto" else [wanted]:
                for sharded in shardings(job, basics):
                    yield Setting(engine, micro_batch, checkpointing, sharded)


def shardings(job: JobFile, basics: Basics) -> list[bool]:
    """Whether packed weights may be split over the ranks: only where there are some, and DoRA does not read them."""
    wanted = job.resources.shard_quantized
    if job.method.quantization is None or job.method.use_dora or basics.world_size == 1:
        return [False]
    return [False, True] if wanted == "auto" else [wanted]


def _micro_batches(job: JobFile, basics: Basics, shape: ModelShape | None) -> list[int]:
    asked, length = job.resources.micro_batch, job.data.max_length
    if asked != "auto":
        return [asked]
    every = divisors(basics.packs_per_rank) if shape else [1]
    return [packs for packs in every if packs == 1 or packs * length <= MOST_TOKENS_LOOKED_AT]


def _on_gpu(job: JobFile, basics: Basics, ground: Ground, with_speed: bool, setting: Setting) -> Candidate:
    assert ground.gpu
    assert ground.shape
    laid = replace(_sized(job, basics, ground, setting), shard_packed=setting.sharded)
    speed, layout = _timed(job, laid, basics, ground) if with_speed else (None, None)
    width = SPREAD["measured" if ground.gpu.gpu.is_measured and not ground.shape.counted else "estimated"]
    learning = _learning(job, basics, ground, setting.engine, predicted(laid), speed, width)
    speed = corrected_speed(speed, learning.speed_correction) if speed else None
    return Candidate(
        basics=basics,
        engine=setting.engine,
        micro_batch=setting.micro_batch,
        accumulation=laid.accumulation,
        checkpointing=setting.checkpointing,
        shard_quantized=setting.sharded,
        relative_time=1 / speed.tokens_per_second if speed else 0.0,
        prediction=_final(learning, ground, "cuda"),
        speed=speed if ground.gpu.is_known else None,
        layout=layout,
        sized=laid,
        learning=learning,
    )


def _sized(job: JobFile, basics: Basics, ground: Ground, chosen: Setting | Candidate) -> Job:
    assert ground.gpu
    assert ground.shape
    return sizing_job(
        job,
        basics,
        ground.shape,
        engine=chosen.engine,
        micro_batch=chosen.micro_batch,
        checkpointing=chosen.checkpointing,
        usable=usable_gib(ground.machine, ground.gpu.gpu),
    )


def _timed(job: JobFile, laid: Job, basics: Basics, ground: Ground) -> tuple[Speed, SpeedLayout]:
    assert ground.gpu
    packing = bool(job.data.packing)
    return timed(laid, ground.gpu.gpu, basics.ranks_per_node, basics.data.mean, packing=packing)


def _learning(
    job: JobFile,
    basics: Basics,
    ground: Ground,
    engine: str,
    prediction: Prediction,
    speed: Speed | None,
    width: float,
) -> Learning:
    key = Key(
        cluster=cluster_key(job.cluster.profile), gpu=_device_key(ground, basics), engine=engine, family=family_of(job)
    )
    return Learning(
        key=key,
        prediction=prediction,
        speed=speed,
        memory_correction=ground.learned.memory(key),
        speed_correction=ground.learned.speed(key, width) if speed else Correction(),
    )


def _final(learning: Learning, ground: Ground, device: str) -> Prediction:
    """Memory as runs have corrected it, with room where the model's architecture is not described."""
    corrected = corrected_memory(learning.prediction, learning.memory_correction, device)
    return widened(corrected, COUNTED_SPREAD if ground.shape and ground.shape.counted else 0.0)


def _device_key(ground: Ground, basics: Basics) -> str:
    if basics.device == "cpu" or ground.gpu is None:
        return "cpu"
    return ground.gpu.gpu.name if ground.gpu.is_known else ground.machine.gpu_names[0]


def family_of(job: JobFile) -> str:
    """The method as measurements are kept by: packed bases take other time and memory than others."""
    return {"nf4": "qlora", "int8": "int8"}.get(job.method.quantization or "", job.method.kind)


def _by_order(job: JobFile, basics: Basics, ground: Ground, with_speed: bool, setting: Setting) -> Candidate:
    tokens = setting.micro_batch * job.data.max_length
    layout = Layout(
        engine=setting.engine,
        world_size=basics.world_size,
        device=basics.device,
        compute_bytes=COMPUTE_BYTES[basics.dtype],
        tokens=tokens,
        checkpointing=setting.checkpointing,
        chunk_tokens=job.loss.chunk_tokens,
        lora=_lora(job, ground.shape),
        shard_quantized=setting.sharded,
    )
    plain = Candidate(
        basics=basics,
        engine=setting.engine,
        micro_batch=setting.micro_batch,
        accumulation=basics.packs_per_rank // setting.micro_batch,
        checkpointing=setting.checkpointing,
        shard_quantized=setting.sharded,
        relative_time=_relative_time(job, basics, setting.engine, tokens, setting.checkpointing)
        * (SHARDED_TIME if setting.sharded else 1),
        prediction=None,
    )
    if ground.shape is None:
        return plain
    speed, timed_as, width = None, None, CPU_WIDTH
    if with_speed and basics.device == "cpu":
        speed = _cpu_speed(job, ground, plain)
    elif with_speed and ground.gpu and ground.gpu.is_known:
        timed_as, width = _single_precision(job, ground, plain), SPREAD["estimated"]
        speed = predict_speed(ground.shape, timed_as)
    learning = _learning(job, basics, ground, setting.engine, predict(ground.shape, layout), speed, width)
    return replace(
        plain,
        prediction=_final(learning, ground, basics.device),
        relative_time=1 / speed.tokens_per_second if speed and timed_as else plain.relative_time,
        layout=timed_as,
        sized=_sized(job, basics, ground, plain) if timed_as else None,
        speed=corrected_speed(speed, learning.speed_correction) if speed else None,
        learning=learning,
    )


def _single_precision(job: JobFile, ground: Ground, candidate: Candidate) -> SpeedLayout:
    """The candidate in float32 on a GPU: products at its float32 rate, attention scores that are written out."""
    assert ground.gpu
    basics = candidate.basics
    sized = _sized(job, basics, ground, candidate)
    laid = replace(speed_layout(sized, ground.gpu.gpu), gpus_per_node=basics.ranks_per_node)
    return replace(laid, number_format="fp32", attention="eager", gradient_bytes=FP32_BYTES)


def _cpu_speed(job: JobFile, ground: Ground, candidate: Candidate) -> Speed:
    assert ground.shape
    basics = candidate.basics
    return cpu_speed(
        ground.shape,
        basics,
        length=job.data.max_length if job.data.packing or not basics.data.is_known else math.ceil(basics.data.mean),
        micro_batch=candidate.micro_batch,
        checkpointing=candidate.checkpointing,
        method=job.method.kind,
        relative=RELATIVE_TIMES["cpu"][candidate.engine],
        threads=max(1, ground.machine.num_cores // basics.ranks_per_node),
    )


def _lora(job: JobFile, shape: ModelShape | None) -> LoraLayout | None:
    method = job.method
    if method.kind != "lora":
        return None
    return LoraLayout(
        r=method.r,
        target_modules=method.target_modules,
        use_dora=method.use_dora,
        quantization=method.quantization,
        double_quantization=method.double_quantization,
        bias=method.bias,
        saved_modules=whole_modules(method.modules_to_save or [], shape) if shape else 0,
    )


def _relative_time(job: JobFile, basics: Basics, engine: str, tokens: int, checkpointing: bool) -> float:
    """Time per token against the quickest plan one can think of, over all ranks: a first order, not a speed model."""
    filled = min(tokens, MOST_TOKENS_PER_FORWARD)
    launches = 1 + LAUNCH_OVERHEAD_TOKENS[basics.device] / filled
    recompute = RECOMPUTE_FACTOR if checkpointing else 1
    return RELATIVE_TIMES[situation(job, basics)][engine] * launches * recompute / basics.world_size
