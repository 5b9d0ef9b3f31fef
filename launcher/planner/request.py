"""An estimate without a job file: memory, speed, hours and cost of a model, a method and some GPUs.

Of our own trainer the planner is asked, with the job that the request amounts to: `estimate` and `plan` say the same.
Of other trainers, and of parallelism that ours does not have, engines, checkpointing and micro-batches are searched
here, the quickest that fits. If nothing fits, the leanest is shown with the smallest changes that would make it fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from launcher.advice.rules import MOST_STEP_TOKENS
from launcher.errors import JobError
from launcher.model.files import find_config
from launcher.planner.estimate import FITTING, LONGEST, METHODS, QUANTISED, Estimate, estimate_job, sharded_if_needed
from launcher.planner.estimate import shape_of as shape_by_path_or_name
from launcher.planner.question import best_candidate, refuse_what_no_job_has
from launcher.sizing import presets
from launcher.sizing.gpus import MOST_GPUS, GpuCount
from launcher.sizing.memory import Adapters, Job, Memory, Phase
from launcher.sizing.memory.settings import Engine
from launcher.sizing.prediction import BEYOND, Prediction
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.cost import Bill, bill
from launcher.sizing.speed.jobs import speed_layout
from launcher.sizing.speed.layout import SpeedLayout
from launcher.sizing.speed.predict import Speed, predict_speed
from rundir.quantities import GIB

ENGINES = ("zero0", "zero1", "zero2", "fsdp2", "zero3")
FILLED_FORWARD = 16_384
"""Tokens from which on more of them make no kernel more efficient."""
SHORT = 512


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        model: A name of the catalogue, a folder with a `config.json`, or that file.
        method: `full`, `lora`, `qlora` or `int8`.
        gpus: How many of which GPU.
        engine: `zero0` to `zero3`, `fsdp1`, `fsdp2`, `ddp`, `megatron`; empty leaves it open.
        length: Tokens of one pack.
        micro_batch: Packs of one forward pass; 0 leaves it open.
        accumulation: Forward passes of a rank in a step; 0 leaves it to the plan, or makes a step of 262,144 tokens.
        checkpointing: `none`, `selective` or `full`; empty leaves it open.
        offload: Empty, `optimizer` or `all`.
        preset: The trainer whose habits count.
        lora_r: Rank of adapters.
        targets: Projections with adapters.
        tokens: Tokens to train on, all epochs together; 0 is unknown.
        rows: Conversations of one pass; 0 is unknown.
        epochs: Passes that make up `tokens`.
        document_length: Mean length of a conversation inside a pack; 0 takes whole packs.
        walltime_hours: Longest life of one attempt; 0 has no end.
        tp: Tensor-parallel ranks; `pp` and `cp` alike.
    """

    model: str
    method: str
    gpus: GpuCount
    engine: str = ""
    length: int = 2048
    micro_batch: int = 0
    accumulation: int = 0
    checkpointing: str = ""
    offload: str = ""
    preset: str = "tuneyard"
    lora_r: int = 16
    targets: str = "all-linear"
    tokens: int = 0
    rows: int = 0
    epochs: float = 1.0
    document_length: float = 0.0
    walltime_hours: float = 0.0
    tp: int = 1
    pp: int = 1
    cp: int = 1

    @property
    def is_ours(self) -> bool:
        """Whether our own trainer could run it, so that the planner answers."""
        return self.preset == "tuneyard" and self.tp * self.pp * self.cp == 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What would run, and what it takes.

    Attributes:
        request: What was asked.
        sizing: Memory of GPU and host, disk, and the verdict.
        layout: The same job as the speed model sees it.
        speed: How quick it is.
        bill: Hours and cost; `None` without a number of tokens.
        nearest: If it does not fit, changes that make it fit, the smallest first.
    """

    request: Request
    sizing: Estimate
    layout: SpeedLayout
    speed: Speed
    bill: Bill | None
    nearest: tuple[str, ...] = ()
    planned: bool | None = None
    """Whether the planner would run it; `None` where it was not asked."""

    @property
    def fits(self) -> bool:
        """Whether it would run: the planner's word, else the verdict."""
        return self.sizing.verdict in FITTING if self.planned is None else self.planned

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader should know about the speed."""
        shape = self.sizing.job.shape
        return (*self.layout.gpu.cautions, *(shape.notes if shape.counted else ()))

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed: those of the estimate, then speed and bill."""
        return {
            **self.sizing.as_json(),
            "cautions": list(self.cautions),
            "accumulation": self.layout.accumulation,
            "speed": self.speed.as_json(),
            "bill": self.bill.as_json() if self.bill else None,
            "nearest": list(self.nearest),
        }


def answer(request: Request) -> Answer:
    """The estimate for a request.

    Raises:
        JobError: the request is impossible: an unknown model, method or preset, a length beyond reason.
    """
    check_request(request)
    shape = shape_of(request.model)
    best = best_of(request, shape)
    return best if best.fits else replace(best, nearest=tuple(_nearest(request, shape)))


def check_request(request: Request) -> None:
    """Whether the request can be answered.

    Raises:
        JobError: it cannot; what is possible is named.
    """
    if request.method not in METHODS:
        raise JobError(f"unknown method {request.method!r}", f"Known: {', '.join(METHODS)}.")
    if request.engine and request.engine not in get_args(Engine):
        raise JobError(f"unknown engine {request.engine!r}", f"Known: {', '.join(get_args(Engine))}.")
    if request.preset not in presets.PRESETS:
        raise JobError(f"unknown preset {request.preset!r}", f"Known: {', '.join(presets.PRESETS)}.")
    if request.is_ours:
        refuse_what_no_job_has(request)
    if not 8 <= request.length <= LONGEST:
        near = min(max(request.length, 8), LONGEST)
        raise JobError(f"--length {request.length:,}: a pack has 8 to {LONGEST:,} tokens", f"Nearest: {near:,}.")
    if request.gpus.count % (request.tp * request.pp * request.cp):
        raise JobError(
            f"{request.gpus.count} GPUs are no multiple of tp x pp x cp = {request.tp * request.pp * request.cp}",
            "Change the degrees, or take a multiple.",
        )


def shape_of(model: str) -> ModelShape:
    """A model's shape from a folder, a `config.json`, the hub's cache here, or the catalogue.

    Raises:
        JobError: none of these knows the model; the nearest names are given.
    """
    config = None if Path(model).exists() else find_config(model)
    return shape_by_path_or_name(config or model)


def _candidates(request: Request) -> Iterator[tuple[str, str, int]]:
    """Engine, checkpointing and micro-batch of everything that the request leaves open."""
    single = request.gpus.count == 1
    engines = (request.engine,) if request.engine else ("zero0",) if single else ENGINES
    checkpointings = (request.checkpointing,) if request.checkpointing else ("none", "full")
    most = max(1, FILLED_FORWARD // request.length)
    powers = [2**n for n in range(most.bit_length())]
    sizes = [request.micro_batch] if request.micro_batch else powers
    yield from itertools.product(engines, checkpointings, sizes)


def best_of(request: Request, shape: ModelShape) -> Answer:
    """The planner's choice, or of other trainers the quickest that fits; the leanest when none does."""
    return _planned(request, shape) if request.is_ours else _searched(request, shape)


def _planned(request: Request, shape: ModelShape) -> Answer:
    best, steps, fits = best_candidate(request, shape)
    if best.sized is None or best.layout is None or best.speed is None:
        raise JobError(f"{request.gpus.gpu.name}: the sizing models do not know it", "Name a GPU of the catalogue.")
    sizing = estimate_job(best.sized, request.gpus.gpu, method=request.method, data_tokens=request.tokens)
    if best.layout.number_format == "fp32" and best.prediction:
        sizing = replace(sizing, memory=_in_single_precision(sizing.memory, best.prediction))
    cost = None
    if request.tokens:
        cost = bill(best.speed, best.layout, request.tokens, request.walltime_hours, steps.number or 0)
    return Answer(request=request, sizing=sizing, layout=best.layout, speed=best.speed, bill=cost, planned=fits)


def _in_single_precision(memory: Memory, planned: Prediction) -> Memory:
    """The planner's prediction for GPUs without bfloat16, which the model of `memory` does not know."""
    found = tuple(Phase(name=name, parts=parts) for name, parts in planned.parts.items())
    own = [sum(size for part, size in phase.parts.items() if part not in BEYOND) for phase in found]
    allocated, process = max(own) / GIB, planned.peak_bytes / GIB
    low, high = (bound / memory.allocated * allocated for bound in memory.interval)
    return replace(
        memory,
        phases=found,
        allocated=allocated,
        reserved=process,
        process=process,
        nvidia_smi=process,
        interval=(low, high),
    )


def _searched(request: Request, shape: ModelShape) -> Answer:
    found = [_sized(request, shape, *candidate) for candidate in _candidates(request)]
    fitting = [entry for entry in found if entry.fits]
    if fitting:
        return max(fitting, key=lambda entry: (round(entry.speed.tokens_per_gpu, 2), -entry.sizing.memory.process))
    return min(found, key=lambda entry: entry.sizing.memory.process)


def _sized(request: Request, shape: ModelShape, engine: str, checkpointing: str, micro_batch: int) -> Answer:
    job = sharded_if_needed(_job(request, shape, engine, checkpointing, micro_batch), request.preset)
    gpu = request.gpus.gpu
    sizing = estimate_job(job, gpu, method=request.method, preset=request.preset, data_tokens=request.tokens)
    layout = speed_layout(job, gpu, request.preset, document_length=request.document_length)
    speed = predict_speed(shape, layout)
    cost = bill(speed, layout, request.tokens, request.walltime_hours) if request.tokens else None
    return Answer(request=request, sizing=sizing, layout=layout, speed=speed, bill=cost)


def _job(request: Request, shape: ModelShape, engine: str, checkpointing: str, micro_batch: int) -> Job:
    gpus = request.gpus.count
    engine = "single" if gpus == 1 and engine in ("zero0", "ddp") else engine
    lora = request.method != "full"
    situation = presets.Situation(
        method="lora" if lora else "full", quantised=request.method in QUANTISED, engine=engine
    )
    data_ranks = gpus // (request.tp * request.pp * request.cp)
    step = micro_batch * request.length * data_ranks
    return Job(
        shape=shape,
        regime=presets.named(request.preset, situation),
        adapters=Adapters(r=request.lora_r, targets=request.targets) if lora else None,
        quantization=QUANTISED.get(request.method, ""),
        engine=engine,  # type: ignore[arg-type]
        gpus=gpus,
        offload=request.offload,
        tp=request.tp,
        pp=request.pp,
        cp=request.cp,
        micro_batch=micro_batch,
        length=request.length,
        accumulation=request.accumulation or max(1, round(MOST_STEP_TOKENS["cuda"] / step)),
        checkpointing=checkpointing,  # type: ignore[arg-type]
        gpu_gib=request.gpus.gpu.usable_gib,
    )


def _nearest(request: Request, shape: ModelShape) -> Iterator[str]:
    """Changes, one at a time, that make the request fit."""
    for words, changed in _changes(replace(request, micro_batch=0, checkpointing="", engine="")):
        if best_of(changed, shape).fits:
            yield words
    for factor in (2, 4, 8, 16, 32, 64):
        more = GpuCount(gpu=request.gpus.gpu, count=min(MOST_GPUS, request.gpus.count * factor))
        if best_of(replace(request, gpus=more, engine="", micro_batch=0, checkpointing=""), shape).fits:
            yield f"--gpus {more.count}x{more.gpu.name}"
            return


def _changes(request: Request) -> Iterator[tuple[str, Request]]:
    """Changes that cost least first: what was left closed, a leaner method, a shorter pack, the host's memory."""
    yield "leave --engine, --micro-batch and --checkpointing open", request
    for method in METHODS[METHODS.index(request.method) + 1 : 3]:
        yield f"--method {method}", replace(request, method=method)
    for length in (request.length // 2, request.length // 4):
        if length >= SHORT:
            yield f"--length {length}", replace(request, length=length)
    if request.offload != "all" and not request.is_ours:
        yield "--offload all --engine zero3", replace(request, offload="all", engine="zero3")
