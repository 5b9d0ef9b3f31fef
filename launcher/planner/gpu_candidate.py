"""Memory and speed of one layout on a GPU: the planner's words put into those of the sizing models."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from launcher.jobfile.schema import JobFile
from launcher.planner.defaults import Basics
from launcher.site.hardware import Machine
from launcher.sizing import presets
from launcher.sizing.gpus import Gpu, find_gpu, known_gpu, with_prices
from launcher.sizing.memory import Adapters, Job, predict_memory
from launcher.sizing.memory.limits import COMMUNICATORS_GIB, CONTEXT_GIB
from launcher.sizing.memory.predict import TRAINING
from launcher.sizing.memory.states import Parameters
from launcher.sizing.prediction import Prediction
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.jobs import speed_layout
from launcher.sizing.speed.layout import SpeedLayout
from launcher.sizing.speed.predict import Speed, predict_speed
from rundir.quantities import GIB

STAND_IN = "H100-80"
"""Ranks plans on GPUs that the catalogue does not have; its speed is not shown then."""
WHOLE_MODULES = ("lm_head", "embed_tokens")


@dataclass(frozen=True, kw_only=True)
class PlannedGpu:
    """The GPU that a plan is for.

    Attributes:
        gpu: Its row of the catalogue, prices of the user's own included; or the stand-in.
        is_known: Whether it is its own row, so that speed and cost mean something.
    """

    gpu: Gpu
    is_known: bool


def planned_gpu(machine: Machine) -> PlannedGpu | None:
    """The machine's GPU in the catalogue; `None` where there is no GPU."""
    if not machine.num_gpus:
        return None
    known = known_gpu(machine.gpu_names[0], with_prices())
    if known:
        return PlannedGpu(gpu=known, is_known=True)
    usable = machine.gpu_memory_bytes / GIB
    return PlannedGpu(gpu=replace(find_gpu(STAND_IN), usable_gib=usable, price=None), is_known=False)


def usable_gib(machine: Machine, gpu: Gpu) -> float:
    """What torch can have of one GPU, in GiB: the catalogue's figure, or less where the driver shows less."""
    return min(gpu.usable_gib, machine.gpu_memory_bytes / GIB)


def sizing_job(
    job: JobFile,
    basics: Basics,
    shape: ModelShape,
    *,
    usable: float,
    engine: str,
    micro_batch: int,
    checkpointing: bool,
) -> Job:
    """One layout as the memory model has it, in our own trainer's regime."""
    situation = presets.Situation(method=job.method.kind, quantised=job.method.quantization is not None, engine=engine)
    regime = replace(
        presets.tuneyard(situation),
        foreach=job.training.optim == "adamw_torch",
        chunk_tokens=job.loss.chunk_tokens,
    )
    return Job(
        shape=shape,
        regime=regime,
        adapters=_adapters(job, shape),
        quantization=_quantization(job),
        engine=engine,  # type: ignore[arg-type]
        gpus=basics.world_size,
        micro_batch=micro_batch,
        length=job.data.max_length,
        accumulation=basics.packs_per_rank // micro_batch,
        checkpointing="full" if checkpointing else "none",
        attention="sdpa" if basics.attention in ("padded", "sdpa") else "flash",
        gpu_gib=usable,
    )


def _adapters(job: JobFile, shape: ModelShape) -> Adapters | None:
    method = job.method
    if method.kind != "lora":
        return None
    return Adapters(
        r=method.r,
        targets=method.target_modules,
        dora=method.use_dora,
        dropout=method.lora_dropout > 0,
        bias=method.bias,
        saved_modules=whole_modules(method.modules_to_save or [], shape),
    )


def whole_modules(names: list[str], shape: ModelShape) -> int:
    """Parameters of the modules that train whole: head and embeddings, or projections by their names."""
    matrices = sum(shape.vocab_size * shape.hidden_size for name in names if name in WHOLE_MODULES)
    counts = shape.linear_counts()
    return matrices + sum(linear.num_parameters * n for linear, n in counts if linear.name.rsplit(".")[-1] in names)


def _quantization(job: JobFile) -> str:
    kind = job.method.quantization or ""
    return "nf4_plain" if kind == "nf4" and not job.method.double_quantization else kind


def predicted(job: Job) -> Prediction:
    """Memory of one rank: phases of a step as they are allocated, and what a process needs beyond that.

    The peak is the least that the process can do with, which is the criterion of fit.
    """
    memory, parameters = predict_memory(job, job.gpu_gib), Parameters(job)
    runtime = CONTEXT_GIB + (COMMUNICATORS_GIB if job.gpus > 1 else 0.0)
    beyond = {"runtime": int(runtime * GIB), "fragmentation": int((memory.process - memory.allocated - runtime) * GIB)}
    trainable = parameters.adapters if job.adapters else job.shape.num_parameters
    return Prediction(
        num_parameters=job.shape.num_parameters + (parameters.adapters if job.adapters else 0),
        num_trainable=trainable,
        parts={phase.name: phase.parts | beyond for phase in memory.phases if phase.name in TRAINING},
    )


def timed(
    job: Job, gpu: Gpu, per_node: int, document_length: float = 0.0, *, packing: bool = True
) -> tuple[Speed, SpeedLayout]:
    """Seconds of a step of one layout, communication included, and the layout as the speed model has it.

    Conversations of a pack do not attend to each other: `document_length` is their mean, 0 takes whole packs. Without
    packing a pack is a conversation: no longer than that on average, whatever memory the longest one takes.
    """
    length = job.length if packing or not document_length else min(job.length, math.ceil(document_length))
    layout = speed_layout(replace(job, length=length), gpu, document_length=document_length)
    layout = replace(layout, gpus_per_node=per_node)
    return predict_speed(job.shape, layout), layout
