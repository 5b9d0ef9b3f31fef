"""A job file in the terms of the sizing models: GPU, adapters, quantization, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from launcher.jobfile.schema import JobFile
from launcher.site.hardware import Machine
from launcher.sizing.gpus import Gpu, find_gpu, known_gpu, with_prices
from launcher.sizing.layout import Adapters
from launcher.sizing.memory import MemoryInput
from launcher.sizing.memory.limits import memory_of, runtime_gib
from launcher.sizing.memory.predict import TRAINING
from launcher.sizing.memory.states import Parameters
from launcher.sizing.prediction import Prediction
from launcher.sizing.shape import ModelShape
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


def adapters_of(job: JobFile, shape: ModelShape | None) -> Adapters | None:
    """LoRA's settings as the models of memory and speed have them; `None` for a full fine-tune."""
    method = job.method
    if method.kind != "lora":
        return None
    return Adapters(
        r=method.r,
        targets=method.target_modules,
        dora=method.use_dora,
        dropout=method.lora_dropout > 0,
        bias=method.bias,
        saved_modules=num_whole_parameters(method.modules_to_save or [], shape) if shape else 0,
    )


def num_whole_parameters(names: list[str], shape: ModelShape) -> int:
    """Parameters of `modules_to_save`: head and embeddings, or projections by name."""
    matrices = sum(shape.vocab_size * shape.hidden_size for name in names if name in WHOLE_MODULES)
    counts = shape.linear_counts()
    return matrices + sum(linear.num_parameters * n for linear, n in counts if linear.name.rsplit(".")[-1] in names)


def quantization_of(job: JobFile) -> str:
    """How a job quantises its frozen weights; empty where it does not."""
    kind = job.method.quantization or ""
    return "nf4_plain" if kind == "nf4" and not job.method.double_quantization else kind


def predicted(given: MemoryInput) -> Prediction:
    """Memory of one rank by phase of a step, with what the process needs beside its tensors.

    The peak is the least that the process can do with, which is the criterion of fit.
    """
    memory, parameters, runtime = memory_of(given), Parameters(given), runtime_gib(given)
    beyond = {"runtime": int(runtime * GIB), "fragmentation": int((memory.process - memory.allocated - runtime) * GIB)}
    return Prediction(
        num_parameters=given.shape.num_parameters + parameters.adapters,
        num_trainable=parameters.adapters if given.layout.adapters else given.shape.num_parameters,
        parts={phase.name: phase.parts | beyond for phase in memory.phases if phase.name in TRAINING},
    )
