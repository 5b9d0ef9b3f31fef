"""Memory of one layout from a model's name: what `launcher.estimate` answers, and what is printed of a plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from launcher.errors import JobError
from launcher.sizing.gpus import Gpu, parse_gpus
from launcher.sizing.hardware import Hardware
from launcher.sizing.host import Disk, Host, disk, host
from launcher.sizing.layout import Adapters, Checkpointing, Engine, Offload, ParallelLayout
from launcher.sizing.memory import Memory, MemoryInput
from launcher.sizing.memory.limits import memory_of
from launcher.sizing.memory.states import Parameters
from launcher.sizing.shape import ModelShape, read_shape, shape_by_name, shape_of_folder
from launcher.sizing.trainer_model import OPTIMIZER_BYTES, Attention, our_trainer
from rundir.quantities import GIB
from trainer.config import DataConfig, LossConfig

METHODS = ("full", "lora", "qlora", "int8")
QUANTISED = {"qlora": "nf4", "int8": "int8"}
FITTING = ("fits", "tight")
OURS = "tuneyard"
LENGTH = DataConfig.model_fields["max_length"]
LONGEST = 4_194_304
"""Tokens beyond which a length is taken for a mistake."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a fine-tune needs on every GPU, on every host, and on disk.

    Attributes:
        given: What was estimated: model, layout, trainer, hardware.
        method: `full`, `lora`, `qlora` or `int8`.
        trainer_name: Whose habits were taken.
        memory: Memory of the busiest GPU, with its phases and the verdict.
        host: Host memory of one node.
        disk: What checkpoints and data take.
        notes: What is not exact, and what was assumed.
    """

    given: MemoryInput
    method: str
    trainer_name: str
    memory: Memory
    host: Host
    disk: Disk
    notes: tuple[str, ...]

    @property
    def layout(self) -> ParallelLayout:
        """How the step is laid over the ranks."""
        return self.given.layout

    @property
    def verdict(self) -> str:
        """`fits`, `tight`, `uncertain`, `no`; empty when no GPU was named."""
        return self.memory.verdict

    def as_json(self) -> dict[str, Any]:
        """The estimate with plain numbers; sizes in GiB."""
        shape, memory, parameters = self.given.shape, self.memory, Parameters(self.given)
        gpu = self.given.hardware.gpu
        return {
            "model": shape.name or shape.model_type,
            "parameters": shape.num_parameters,
            "active_parameters": shape.active_parameters,
            "trainable_parameters": parameters.adapters if self.layout.adapters else shape.num_parameters,
            "method": self.method,
            "preset": self.trainer_name,
            "gpu": gpu.name if gpu else None,
            "gpus": self.layout.ranks,
            "layout": _layout_json(self.given),
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


def _layout_json(given: MemoryInput) -> dict[str, Any]:
    layout = given.layout
    degrees = {"tp": layout.tp, "pp": layout.pp, "cp": layout.sequence_parallel, "ep": layout.ep}
    return {
        "engine": layout.engine,
        "micro_batch": layout.micro_batch,
        "length": layout.length,
        "checkpointing": layout.checkpointing,
        "attention": given.trainer.attention,
        "optimizer": given.trainer.optimizer,
        "offload": layout.offload,
        **{name: degree for name, degree in degrees.items() if degree > 1},
        **({"shard_packed": True} if layout.shard_quantized else {}),
    }


def estimate(
    model: str | Path | ModelShape,
    method: str = "full",
    gpus: str | int = 1,
    *,
    engine: str = "auto",
    micro_batch: int = 1,
    accumulation: int = 1,
    length: int = LENGTH.default,
    checkpointing: Checkpointing = "full",
    dtype: str = "bfloat16",
    attention: Attention = "flash",
    optimizer: str = "adamw",
    adapters: Adapters | None = None,
    shard_quantized: bool = False,
    shard_ranks: int = 0,
    offload: Offload = "",
    gpus_per_node: int = 0,
    keep_checkpoints: int = 3,
    data_tokens: int = 0,
) -> Estimate:
    """What a fine-tune with our own trainer needs, without a job file, a GPU, or torch.

    Args:
        model: Name in the catalogue (any usual spelling), path of a `config.json` or of the folder that has it, or
            a shape.
        method: `full`, `lora`, `qlora` (NF4), or `int8`.
        gpus: Number, or number and model as in `8xH100-80`; without a model there is no verdict.
        engine: `zero0` to `zero3`, `fsdp2`; `auto` is `fsdp2`, but none for adapters on one GPU.
        micro_batch: Packs in one forward pass of a rank.
        accumulation: Forward passes before a step.
        length: Tokens of a pack.
        checkpointing: `none`, `selective`, `full`, or `offload` (inputs of layers in host memory).
        dtype: `bfloat16`, or `float32` for weights and products.
        attention: Kernel: `flash`, `sdpa`, or `eager`.
        optimizer: Name in `OPTIMIZER_BYTES`.
        adapters: LoRA's settings; `None` is the trainer's default rank on all projections.
        shard_quantized: Split packed weights over the GPUs; otherwise only where they do not fit whole.
        shard_ranks: GPUs among which states are split under hybrid sharding; 0 is all.
        offload: `""`, `optimizer`, or `all` (parameters too).
        gpus_per_node: For host memory; 0 is the GPU's usual number.
        keep_checkpoints: Checkpoints that stay on disk.
        data_tokens: Tokens of the training data, for its size on disk.

    Raises:
        JobError: the model, the GPU, or a setting is unknown or absurd; the nearest possibility is named.
    """
    shape, (gpu, count) = shape_of(model), gpus_of(gpus)
    require_known("method", method, METHODS)
    require_known("engine", engine, ("auto", *get_args(Engine)))
    if engine == "auto":
        engine = "single" if count == 1 and method != "full" else "fsdp2"
    layout = ParallelLayout(
        engine=engine,  # type: ignore[arg-type]
        ranks=count,
        micro_batch=micro_batch,
        accumulation=accumulation,
        length=length,
        checkpointing=checkpointing,
        chunk_tokens=LossConfig.model_fields["chunk_tokens"].default,
        adapters=None if method == "full" else adapters or Adapters(),
        quantization=QUANTISED.get(method, ""),
        shard_quantized=shard_quantized,
        shard_ranks=shard_ranks,
        offload=offload,
    )
    trainer = replace(our_trainer(engine, dtype=dtype, attention=attention), optimizer=optimizer)
    hardware = Hardware(gpu=gpu, usable_gib=gpu.usable_gib if gpu else 0.0, gpus_per_node=gpus_per_node)
    given = MemoryInput(shape=shape, layout=layout, trainer=trainer, hardware=hardware)
    require_possible(given)
    if can_shard_quantized(layout) and gpu and memory_of(given).verdict not in FITTING:
        given = replace(given, layout=replace(layout, shard_quantized=True))
    return estimate_of(given, keep_checkpoints=keep_checkpoints, data_tokens=data_tokens)


def can_shard_quantized(layout: ParallelLayout) -> bool:
    """Whether there are packed weights and ranks to split them over; DoRA reads whole weights."""
    return bool(layout.quantization and layout.adapters and not layout.adapters.dora and layout.sharded_over > 1)


def estimate_of(
    given: MemoryInput,
    *,
    method: str = "",
    trainer_name: str = OURS,
    keep_checkpoints: int = 3,
    data_tokens: int = 0,
) -> Estimate:
    """The estimate of what is laid out already: a plan's candidate, or a published measurement."""
    hardware = given.hardware
    per_node = hardware.gpus_per_node or (hardware.gpu.per_node if hardware.gpu else 8)
    return Estimate(
        given=given,
        method=method or _method(given.layout),
        trainer_name=trainer_name,
        memory=memory_of(given),
        host=host(given, min(given.layout.ranks, per_node)),
        disk=disk(given, keep_checkpoints, data_tokens),
        notes=(*given.shape.notes, *_assumptions(given)),
    )


def _method(layout: ParallelLayout) -> str:
    if layout.adapters is None:
        return "full"
    return {"": "lora", "int8": "int8"}.get(layout.quantization, "qlora")


def _assumptions(given: MemoryInput) -> tuple[str, ...]:
    notes, layout = [], given.layout
    if layout.tp * layout.pp * layout.sequence_parallel * layout.ep > 1:
        notes.append("tensor, pipeline, context and expert parallelism are estimated only; the trainer has none")
    if given.shape.num_experts and layout.quantization and not given.trainer.quantises_experts:
        notes.append("experts stay in two bytes: bitsandbytes does not pack stacked experts")
    if given.shape.num_experts:
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


def gpus_of(gpus: str | int) -> tuple[Gpu | None, int]:
    """Model and number of `8xH100-80`; a number alone has no model.

    Raises:
        JobError: no such GPU, or no sensible number.
    """
    text = str(gpus).strip()
    if not text.lstrip("-").isdigit():
        found = parse_gpus(text)
        return found.gpu, found.count
    if int(text) < 1:
        raise JobError(f"--gpus {text}: at least one GPU is needed", "For example 8, or 8xH100-80.")
    return None, int(text)


def require_possible(given: MemoryInput) -> None:
    """Refuses what is unknown or absurd.

    Raises:
        JobError: with what is known, or with the sensible range.
    """
    layout, trainer = given.layout, given.trainer
    require_known("checkpointing", layout.checkpointing, get_args(Checkpointing))
    require_known("attention", trainer.attention, get_args(Attention))
    require_known("optimizer", trainer.optimizer, tuple(OPTIMIZER_BYTES))
    require_known("offload", layout.offload, get_args(Offload))
    if not 1 <= layout.length <= LONGEST:
        raise JobError(f"length {layout.length} is no sensible number of tokens", f"Between 1 and {LONGEST:,}.")
    if layout.micro_batch < 1 or layout.accumulation < 1:
        raise JobError(f"micro-batch {layout.micro_batch} and accumulation {layout.accumulation} must be at least 1")


def require_known(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuses a value that is not among those known.

    Raises:
        JobError: it is not; those that are, are named.
    """
    if value not in known:
        raise JobError(f"unknown {what} {value!r}", f"Known: {', '.join(known)}.")


def to_text(found: Estimate) -> str:
    """The estimate as one JSON document."""
    return json.dumps(found.as_json(), indent=2)
