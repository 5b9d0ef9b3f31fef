"""Memory of a fine-tune from a model's name: the estimate that `tuneyard estimate` prints and `launcher` exports."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, get_args

from launcher.errors import JobError
from launcher.sizing import presets
from launcher.sizing.gpus import Gpu, parse_gpus
from launcher.sizing.host import Disk, Host, disk, host
from launcher.sizing.memory import LOSSES, Adapters, Job, Memory, Regime, predict_memory
from launcher.sizing.memory.settings import OPTIMIZER_BYTES, Attention, Checkpointing, Engine
from launcher.sizing.memory.states import Parameters
from launcher.sizing.shape import ModelShape, read_shape, shape_by_name, shape_of_folder
from rundir.quantities import GIB

METHODS = ("full", "lora", "qlora", "int8")
FITTING = ("fits", "tight")
LONGEST = 4_194_304
"""Tokens beyond which a length is taken for a mistake."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a fine-tune needs on every GPU, on every host, and on disk.

    Attributes:
        job: What was estimated.
        method: `full`, `lora`, `qlora` or `int8`.
        preset: The trainer whose habits were taken.
        gpu: The GPU that was asked about, or `None`.
        memory: Memory of the busiest GPU, with its phases and the verdict.
        host: Host memory of one node.
        disk: What checkpoints and data take.
        notes: What is not exact, and what was assumed.
    """

    job: Job
    method: str
    preset: str
    gpu: Gpu | None
    memory: Memory
    host: Host
    disk: Disk
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`fits`, `tight`, `uncertain`, `no`; empty when no GPU was named."""
        return self.memory.verdict

    def as_json(self) -> dict[str, Any]:
        """The estimate with plain numbers; sizes in GiB."""
        shape, memory, parameters = self.job.shape, self.memory, Parameters(self.job)
        return {
            "model": shape.name or shape.model_type,
            "parameters": shape.num_parameters,
            "active_parameters": shape.active_parameters,
            "trainable_parameters": parameters.adapters if self.job.adapters else shape.num_parameters,
            "method": self.method,
            "preset": self.preset,
            "gpu": self.gpu.name if self.gpu else None,
            "gpus": self.job.gpus,
            "layout": _layout(self.job),
            "allocated_gib": round(memory.allocated, 2),
            "interval_gib": [round(bound, 2) for bound in memory.interval],
            "process_gib": round(memory.process, 2),
            "nvidia_smi_gib": round(memory.nvidia_smi, 2),
            "usable_gib": round(memory.usable, 2),
            "verdict": memory.verdict,
            "busiest_phase": memory.busiest.name,
            "phases_gib": {phase.name: round(phase.total / GIB, 2) for phase in memory.phases},
            "components_gib": {part: round(size / GIB, 3) for part, size in memory.busiest.parts.items()},
            "host": self.host.as_json(),
            "disk": self.disk.as_json(),
            "notes": list(self.notes),
        }


def _layout(job: Job) -> dict[str, Any]:
    names = ("engine", "micro_batch", "length", "checkpointing", "attention", "optimizer", "offload")
    degrees = {name: getattr(job, name) for name in ("tp", "pp", "cp", "ep") if getattr(job, name) > 1}
    sharded = {"shard_packed": True} if job.shard_packed else {}
    return {name: getattr(job, name) for name in names} | degrees | sharded


class Layout(TypedDict, total=False):
    """How a fine-tune is laid out; what is left out is as in `Job`.

    Attributes:
        micro_batch: Sequences in one forward pass of a rank (1).
        length: Tokens of a sequence (2048).
        accumulation: Forward passes before a step (1).
        checkpointing: `none`, `selective`, `full`, or `offload` (inputs of layers in host memory).
        attention: `flash`, `sdpa`, or `eager`.
        optimizer: Name in `OPTIMIZER_BYTES`.
        offload: `""`, `optimizer`, or `all` (parameters too).
        shards: GPUs among which states are split under hybrid sharding; 0 is all.
        shard_packed: Split packed weights over the GPUs; otherwise only where they do not fit whole.
        tp: Degree of tensor parallelism; `pp`, `cp`, `ep` likewise for pipeline, context, experts.
    """

    micro_batch: int
    length: int
    accumulation: int
    checkpointing: Checkpointing
    attention: Attention
    optimizer: str
    offload: str
    shards: int
    shard_packed: bool
    tp: int
    pp: int
    cp: int
    ep: int


def estimate(
    model: str | Path | ModelShape,
    method: str = "full",
    gpus: str | int = 1,
    *,
    engine: str = "auto",
    preset: str = "tuneyard",
    loss: str = "",
    dtype: str = "bfloat16",
    adapters: Adapters | None = None,
    gpus_per_node: int = 0,
    keep_checkpoints: int = 3,
    data_tokens: int = 0,
    **layout: Unpack[Layout],
) -> Estimate:
    """What a fine-tune needs, without a job file, a GPU, or torch.

    Args:
        model: Name in the catalogue (any usual spelling), path of a `config.json` or of the folder that has it, or
            a shape.
        method: `full`, `lora`, `qlora` (NF4), or `int8`.
        gpus: Number, or number and model as in `8xH100-80`; without a model there is no verdict.
        engine: `single`, `ddp`, `zero0` to `zero3`, `fsdp1`, `fsdp2`, `megatron`; `auto` is `fsdp2`, but `single` for
            adapters on one GPU.
        preset: Trainer whose habits count; see `launcher.sizing.presets.PRESETS`.
        loss: Name in `LOSSES`; empty is the preset's.
        dtype: `bfloat16`, or `float32` for weights too.
        adapters: LoRA's settings; `None` is rank 16 on all projections.
        gpus_per_node: For host memory; 0 is the GPU's usual number.
        keep_checkpoints: Checkpoints that stay on disk.
        data_tokens: Tokens of the training data, for its size on disk.
        layout: Everything else, as in `Layout`.

    Raises:
        JobError: the model, the GPU, or a setting is unknown or absurd; the nearest possibility is named.
    """
    shape, (gpu, count) = shape_of(model), _gpus(gpus)
    _known("method", method, METHODS)
    _known("preset", preset, tuple(presets.PRESETS))
    _known("loss", loss or "chunked", tuple(LOSSES))
    job = Job(
        shape=shape,
        adapters=None if method == "full" else adapters or Adapters(),
        quantization=QUANTISED.get(method, ""),
        engine=_engine(engine, count, preset, method),
        gpus=count,
        gpu_gib=gpu.usable_gib if gpu else 0.0,
        **layout,
    )
    _check(job)
    regime = _regime(job, preset, loss, dtype)
    return estimate_job(
        sharded_if_needed(replace(job, regime=regime), preset),
        gpu,
        preset=preset,
        per_node=gpus_per_node,
        keep_checkpoints=keep_checkpoints,
        data_tokens=data_tokens,
    )


def sharded_if_needed(job: Job, preset: str) -> Job:
    """Our own trainer splits packed weights over the ranks where they do not fit whole; others as they are."""
    if preset != "tuneyard" or not shards_packed(job) or job.shard_packed or not job.gpu_gib:
        return job
    fits = predict_memory(job, job.gpu_gib).verdict in FITTING
    return job if fits else replace(job, shard_packed=True)


def shards_packed(job: Job) -> bool:
    """Whether there are packed weights and ranks to split them over; DoRA reads whole weights."""
    return bool(job.quantization and job.adapters and not job.adapters.dora and job.sharded_over > 1)


def _regime(job: Job, preset: str, loss: str, dtype: str) -> Regime:
    situation = presets.Situation(
        method="lora" if job.adapters else "full",
        quantised=bool(job.quantization),
        engine=job.engine,
        fp32=dtype == "float32",
    )
    regime = presets.named(preset, situation)
    return replace(regime, loss=loss) if loss else regime


QUANTISED = {"qlora": "nf4", "int8": "int8"}


def estimate_job(
    job: Job,
    gpu: Gpu | None = None,
    *,
    method: str = "",
    preset: str = "tuneyard",
    per_node: int = 0,
    keep_checkpoints: int = 3,
    data_tokens: int = 0,
) -> Estimate:
    """The estimate of a job that is laid out already: what the planner calls for each candidate."""
    ranks = min(job.gpus, per_node or (gpu.per_node if gpu else 8))
    return Estimate(
        job=job,
        method=method or _method(job),
        preset=preset,
        gpu=gpu,
        memory=predict_memory(job, gpu.usable_gib if gpu else 0.0),
        host=host(job, ranks),
        disk=disk(job, keep_checkpoints, data_tokens),
        notes=(*job.shape.notes, *_assumptions(job)),
    )


def _method(job: Job) -> str:
    if job.adapters is None:
        return "full"
    return {"": "lora", "int8": "int8"}.get(job.quantization, "qlora")


def _assumptions(job: Job) -> tuple[str, ...]:
    notes = []
    if job.tp * job.pp * job.cp * job.ep > 1:
        notes.append("tensor, pipeline, context and expert parallelism are estimated only; the trainer has none")
    if job.shape.num_experts and job.quantization and not job.regime.quantises_experts:
        notes.append("experts stay in two bytes: bitsandbytes does not pack stacked experts")
    if job.shape.num_experts:
        notes.append("routing is taken as even; hot experts can raise the peak")
    return tuple(notes)


def shape_of(model: str | Path | ModelShape) -> ModelShape:
    """The shape that a name, a path, or a shape means.

    Raises:
        JobError: neither a known name nor a readable config.json.
    """
    if isinstance(model, ModelShape):
        return model
    path = Path(model)
    if path.is_dir():
        return shape_of_folder(path)
    if path.suffix != ".json":
        return shape_by_name(str(model))
    return shape_of_folder(path.parent) if path.name == "config.json" else read_shape(path)


def _gpus(gpus: str | int) -> tuple[Gpu | None, int]:
    text = str(gpus).strip()
    if not text.lstrip("-").isdigit():
        found = parse_gpus(text)
        return found.gpu, found.count
    if int(text) < 1:
        raise JobError(f"--gpus {text}: at least one GPU is needed", "For example 8, or 8xH100-80.")
    return None, int(text)


def _engine(engine: str, gpus: int, preset: str, method: str) -> Engine:
    if engine in get_args(Engine):
        return engine  # type: ignore[return-value]
    if engine != "auto":
        raise JobError(f"unknown engine {engine!r}", f"Known: auto, {', '.join(get_args(Engine))}.")
    if preset == "megatron":
        return "megatron"
    ours_alone = preset == "tuneyard" and method == "full"
    return "single" if gpus == 1 and not ours_alone else "fsdp2"


def _check(job: Job) -> None:
    """Refuses what is unknown or absurd.

    Raises:
        JobError: with what is known, or with the sensible range.
    """
    _known("checkpointing", job.checkpointing, get_args(Checkpointing))
    _known("attention", job.attention, get_args(Attention))
    _known("optimizer", job.optimizer, tuple(OPTIMIZER_BYTES))
    _known("offload", job.offload, ("", "optimizer", "all"))
    if not 1 <= job.length <= LONGEST:
        raise JobError(f"length {job.length} is no sensible number of tokens", f"Between 1 and {LONGEST:,}.")
    if job.micro_batch < 1 or job.accumulation < 1:
        raise JobError(f"micro-batch {job.micro_batch} and accumulation {job.accumulation} must be at least 1")
    tp, pp, cp, ep = job.tp, job.pp, job.cp, job.ep
    if min(tp, pp, cp, ep) < 1 or job.gpus % (tp * pp * cp) or job.gpus % ep:
        raise JobError(f"tp {tp} x pp {pp} x cp {cp}, or ep {ep}, does not divide {job.gpus} GPUs")
    if job.shape.num_heads % tp or pp > job.shape.num_layers:
        heads, layers = job.shape.num_heads, job.shape.num_layers
        raise JobError(f"{heads} heads and {layers} layers do not split over tp {tp}, pp {pp}")


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise JobError(f"unknown {what} {value!r}", f"Known: {', '.join(known)}.")


def to_text(found: Estimate) -> str:
    """The estimate as one JSON document."""
    return json.dumps(found.as_json(), indent=2)
