"""Memory and speed of a fine-tune with another trainer, or with parallelism that ours does not have.

    python -m benchmarks.sizing.other_trainers trl --model llama-3.1-8b --method full --gpus 8xH100-80

Engines, checkpointing and micro-batches that are left open are searched, the quickest that fits. If nothing fits, the
leanest is shown with the smallest changes that would make it fit. `tuneyard estimate` answers for our own trainer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import click

from benchmarks.sizing import trainers
from benchmarks.sizing.layout import PublishedLayout
from launcher.errors import JobError
from launcher.planner.ask.estimate import (
    FITTING,
    LONGEST,
    METHODS,
    QUANTISED,
    Estimate,
    estimate_of,
    gpus_of,
    require_known,
    require_possible,
    shape_of,
)
from launcher.sizing.gpus import MOST_GPUS, GpuCount, parse_gpus
from launcher.sizing.hardware import Hardware, on_gpu
from launcher.sizing.layout import Adapters, Engine
from launcher.sizing.memory import MemoryInput
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.predict import Speed, predict_speed
from launcher.sizing.trainer_model import LOSSES, TrainerModel

ENGINES: tuple[Engine, ...] = ("zero0", "zero1", "zero2", "fsdp2", "zero3")
FILLED_FORWARD = 16_384
"""Tokens from which on more of them make no kernel more efficient."""
STEP_TOKENS = 262_144
SHORT = 512


def habits(name: str, layout: PublishedLayout, dtype: str = "bfloat16", loss: str = "") -> TrainerModel:
    """The model of a trainer by its name, as it holds numbers in a layout."""
    setup = trainers.TrainingSetup(
        method="lora" if layout.adapters else "full",
        quantised=bool(layout.quantization),
        engine=layout.engine,
        fp32=dtype == "float32",
    )
    trainer = trainers.named(name, setup)
    return replace(trainer, loss=loss) if loss else trainer


def estimate_other(
    model: str | Path | ModelShape,
    method: str,
    gpus: str | int,
    trainer: str,
    *,
    engine: str = "auto",
    loss: str = "",
    dtype: str = "bfloat16",
    adapters: Adapters | None = None,
    **layout: Any,
) -> Estimate:
    """What a fine-tune needs with another trainer, its layout given.

    Args:
        model: As for `launcher.estimate`.
        method: `full`, `lora`, `qlora` (NF4), or `int8`.
        gpus: Number, or number and model as in `8xH100-80`.
        trainer: Name in `trainers.TRAINERS`.
        engine: `single`, `ddp`, `zero0` to `zero3`, `fsdp1`, `fsdp2`, `megatron`; `auto` is the trainer's usual one.
        loss: Name in `LOSSES`; empty is the trainer's.
        dtype: `bfloat16`, or `float32` for weights too.
        adapters: LoRA's settings; `None` is rank 16 on all projections.
        layout: Everything else, as in `PublishedLayout`.

    Raises:
        JobError: something is unknown or absurd; the nearest possibility is named.
    """
    shape, (gpu, count) = shape_of(model), gpus_of(gpus)
    require_known("method", method, METHODS)
    require_known("trainer", trainer, tuple(trainers.TRAINERS))
    require_known("loss", loss or "chunked", tuple(LOSSES))
    require_known("engine", engine, ("auto", *get_args(Engine)))
    if engine == "auto":
        engine = "megatron" if trainer == "megatron" else "single" if count == 1 else "fsdp2"
    laid = PublishedLayout(
        engine=engine,  # type: ignore[arg-type]
        ranks=count,
        adapters=None if method == "full" else adapters or Adapters(),
        quantization=QUANTISED.get(method, ""),
        **layout,
    )
    require_degrees(laid, shape)
    hardware = Hardware(gpu=gpu, usable_gib=gpu.usable_gib if gpu else 0.0)
    given = MemoryInput(shape=shape, layout=laid, trainer=habits(trainer, laid, dtype, loss), hardware=hardware)
    require_possible(given)
    return estimate_of(given, trainer_name=trainer)


def require_degrees(layout: PublishedLayout, shape: ModelShape) -> None:
    """Refuses degrees of parallelism that do not divide GPUs or model.

    Raises:
        JobError: they do not.
    """
    tp, pp, cp, ep = layout.tp, layout.pp, layout.sequence_parallel, layout.ep
    if min(tp, pp, cp, ep) < 1 or layout.ranks % (tp * pp * cp) or layout.ranks % ep:
        raise JobError(f"tp {tp} x pp {pp} x cp {cp}, or ep {ep}, does not divide {layout.ranks} GPUs")
    if shape.num_heads % tp or pp > shape.num_layers:
        heads, layers = shape.num_heads, shape.num_layers
        raise JobError(f"{heads} heads and {layers} layers do not split over tp {tp}, pp {pp}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of another trainer; empty and 0 leave a part of the layout open."""

    trainer: str
    model: str
    method: str
    gpus: GpuCount
    engine: str = ""
    length: int = 2048
    micro_batch: int = 0
    accumulation: int = 0
    checkpointing: str = ""
    offload: str = ""
    lora_r: int = 16
    tp: int = 1
    pp: int = 1
    cp: int = 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """What would run, and how quickly.

    Attributes:
        estimate: Memory of GPU and host, disk, and the verdict.
        speed: How quick it is.
        suggestions: If it does not fit, changes that make it fit, the smallest first.
    """

    estimate: Estimate
    speed: Speed
    suggestions: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it would run."""
        return self.estimate.verdict in FITTING

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed."""
        speed = self.speed.as_json()
        return {**self.estimate.as_json(), "speed": speed, "suggestions": list(self.suggestions)}


def answer(asked: Asked) -> Found:
    """The quickest layout that fits; the leanest, with what would fit, when none does.

    Raises:
        JobError: the question is impossible: an unknown model, method or trainer, a length beyond reason.
    """
    require_known("method", asked.method, METHODS)
    require_known("trainer", asked.trainer, tuple(trainers.TRAINERS))
    require_known("engine", asked.engine or "fsdp2", get_args(Engine))
    if not 8 <= asked.length <= LONGEST:
        near = min(max(asked.length, 8), LONGEST)
        raise JobError(f"--length {asked.length:,}: a pack has 8 to {LONGEST:,} tokens", f"Nearest: {near:,}.")
    degrees = asked.tp * asked.pp * asked.cp
    if asked.gpus.count % degrees:
        raise JobError(
            f"{asked.gpus.count} GPUs are no multiple of tp x pp x cp = {degrees}",
            "Change the degrees, or take a multiple.",
        )
    shape = shape_of(asked.model)
    best = best_of(asked, shape)
    return best if best.fits else replace(best, suggestions=tuple(_suggestions(asked, shape)))


def best_of(asked: Asked, shape: ModelShape) -> Found:
    """Of everything that is left open, the quickest that fits; the leanest when nothing does."""
    engines = (asked.engine,) if asked.engine else ("zero0",) if asked.gpus.count == 1 else ENGINES
    checkpointings = (asked.checkpointing,) if asked.checkpointing else ("none", "full")
    most = max(1, FILLED_FORWARD // asked.length)
    sizes = [asked.micro_batch] if asked.micro_batch else [2**n for n in range(most.bit_length())]
    found = [_sized(asked, shape, *chosen) for chosen in itertools.product(engines, checkpointings, sizes)]
    fitting = [one for one in found if one.fits]
    if fitting:
        return max(fitting, key=lambda one: (round(one.speed.tokens_per_gpu, 2), -one.estimate.memory.process))
    return min(found, key=lambda one: one.estimate.memory.process)


def _sized(asked: Asked, shape: ModelShape, engine: str, checkpointing: str, micro_batch: int) -> Found:
    count = asked.gpus.count
    step = micro_batch * asked.length * (count // (asked.tp * asked.pp * asked.cp))
    layout = PublishedLayout(
        engine="single" if count == 1 and engine in ("zero0", "ddp") else engine,  # type: ignore[arg-type]
        ranks=count,
        micro_batch=micro_batch,
        accumulation=asked.accumulation or max(1, round(STEP_TOKENS / step)),
        length=asked.length,
        checkpointing=checkpointing,  # type: ignore[arg-type]
        adapters=None if asked.method == "full" else Adapters(r=asked.lora_r),
        quantization=QUANTISED.get(asked.method, ""),
        offload=asked.offload,  # type: ignore[arg-type]
        tp=asked.tp,
        pp=asked.pp,
        sequence_parallel=asked.cp,
    )
    trainer, hardware = habits(asked.trainer, layout), on_gpu(asked.gpus.gpu)
    given = MemoryInput(shape=shape, layout=layout, trainer=trainer, hardware=hardware)
    estimate = estimate_of(given, method=asked.method, trainer_name=asked.trainer)
    return Found(estimate=estimate, speed=predict_speed(shape, layout, hardware, trainer))


def _suggestions(asked: Asked, shape: ModelShape) -> Iterator[str]:
    """Changes, one at a time, that make it fit; those that cost least first."""
    opened = replace(asked, micro_batch=0, checkpointing="", engine="")
    changes = [("leave --engine, --micro-batch and --checkpointing open", opened)]
    leaner = METHODS[METHODS.index(asked.method) + 1 : 3]
    changes += [(f"--method {method}", replace(opened, method=method)) for method in leaner]
    shorter = [length for length in (asked.length // 2, asked.length // 4) if length >= SHORT]
    changes += [(f"--length {length}", replace(opened, length=length)) for length in shorter]
    if asked.offload != "all":
        changes.append(("--offload all --engine zero3", replace(opened, offload="all", engine="zero3")))
    yield from (words for words, changed in changes if best_of(changed, shape).fits)
    for factor in (2, 4, 8, 16, 32, 64):
        more = GpuCount(gpu=asked.gpus.gpu, count=min(MOST_GPUS, asked.gpus.count * factor))
        if best_of(replace(opened, gpus=more), shape).fits:
            yield f"--gpus {more.count}x{more.gpu.name}"
            return


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("trainer")
@click.option("--model", required=True, metavar="NAME|PATH")
@click.option("--method", default="lora", show_default=True, help="full, lora, qlora or int8.")
@click.option("--gpus", required=True, metavar="8xH100-80")
@click.option("--engine", default="", help="zero0 to zero3, fsdp1, fsdp2, ddp, megatron.")
@click.option("--length", type=int, default=2048, show_default=True)
@click.option("--micro-batch", type=click.IntRange(0), default=0)
@click.option("--accumulation", type=click.IntRange(0), default=0)
@click.option("--checkpointing", type=click.Choice(["", "none", "selective", "full"]), default="")
@click.option("--offload", type=click.Choice(["", "optimizer", "all"]), default="")
@click.option("--r", "lora_r", type=click.IntRange(1), default=16, show_default=True)
@click.option("--tp", type=click.IntRange(1), default=1)
@click.option("--pp", type=click.IntRange(1), default=1)
@click.option("--cp", type=click.IntRange(1), default=1)
def main(gpus: str, **asked: Any) -> None:
    try:
        found = answer(Asked(gpus=parse_gpus(gpus), **asked))
    except JobError as error:
        raise click.ClickException(f"{error.message}\n{error.remedy}") from error
    click.echo(json.dumps(found.as_json(), indent=2))


if __name__ == "__main__":
    main()
