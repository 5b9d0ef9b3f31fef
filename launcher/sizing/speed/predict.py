"""How long one optimizer step takes, from counts of work and rates of hardware, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError
from launcher.sizing.hardware import Hardware
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.inputs import SpeedInput
from launcher.sizing.speed.step_time import StepTime
from launcher.sizing.speed.work import Work, model_flops, work_of
from launcher.sizing.trainer_model import TrainerModel, our_trainer

LONGEST = 16_777_216


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a layout reaches.

    Attributes:
        step_seconds: One optimizer step.
        parts: Its seconds by cause; they add up.
        tokens_per_second: Tokens of all GPUs, padding left out.
        tokens_per_gpu: The same per GPU.
        mfu: Model FLOPs over the data-sheet rate of the 16-bit format.
        tflops_per_gpu: Model TFLOP/s per GPU.
        low: Lower end of the tokens per second and GPU that nine in ten measurements reach.
        high: Upper end.
    """

    step_seconds: float
    parts: dict[str, float]
    tokens_per_second: float
    tokens_per_gpu: float
    mfu: float
    tflops_per_gpu: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed and stored."""
        return {
            "step_seconds": self.step_seconds,
            "parts_seconds": self.parts,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_per_gpu": self.tokens_per_gpu,
            "tokens_per_second_per_gpu_interval": [self.low, self.high],
            "mfu": self.mfu,
            "model_tflops_per_gpu": self.tflops_per_gpu,
        }


SPREAD = {"measured": 1.4, "estimated": 1.6}
"""Factor within which nine in ten measurements lie, from the held-out errors: on GPUs with a measured matrix rate,
and on those whose rate is estimated."""


def predict_speed(
    shape: ModelShape | Work,
    layout: ParallelLayout,
    hardware: Hardware,
    trainer: TrainerModel | None = None,
    *,
    document_length: float = 0.0,
    fill: float = 1.0,
) -> Speed:
    """The time of one optimizer step.

    Args:
        shape: The model's.
        layout: How the step is laid over the ranks.
        hardware: What a rank runs on.
        trainer: Whose kernels run; `None` is our own trainer in bfloat16.
        document_length: Mean number of keys in a token's own document; 0 takes whole sequences.
        fill: Share of positions that are no padding.

    Raises:
        JobError: the layout is impossible: degrees that do not divide, a length beyond reason.
    """
    assert hardware.gpu
    given = SpeedInput(
        work=work_of(shape),
        layout=layout,
        gpu=hardware.gpu,
        node_gpus=hardware.node_gpus(layout.ranks),
        trainer=trainer or our_trainer(layout.engine),
        document_length=document_length,
        fill=fill,
    )
    is_measured = hardware.gpu.is_measured and not (isinstance(shape, ModelShape) and shape.counted)
    return speed_of(given, SPREAD["measured" if is_measured else "estimated"])


def speed_of(given: SpeedInput, spread: float = SPREAD["measured"]) -> Speed:
    """The time of one optimizer step, from inputs that are together already.

    Raises:
        JobError: the layout is impossible.
    """
    _check(given.layout, given.fill)
    parts = StepTime(given).parts()
    seconds, ranks = sum(parts.values()), given.layout.ranks
    per_gpu = given.step_tokens / seconds / ranks
    tera = per_gpu * model_flops(given.work, trained=given.trains_all, attended=given.keys) / 1e12
    return Speed(
        step_seconds=seconds,
        parts={name: value for name, value in parts.items() if value > 0},
        tokens_per_second=per_gpu * ranks,
        tokens_per_gpu=per_gpu,
        mfu=tera / given.gpu.tflops[given.gpu.half],
        tflops_per_gpu=tera,
        low=per_gpu / spread,
        high=per_gpu * spread,
    )


def _check(layout: ParallelLayout, fill: float) -> None:
    """Whether the layout can exist at all.

    Raises:
        JobError: it cannot; the nearest possibility is named.
    """
    model_ranks = layout.tp * layout.pp * layout.sequence_parallel
    if layout.ranks % model_ranks:
        near = max(model_ranks, layout.ranks // model_ranks * model_ranks)
        raise JobError(f"{layout.ranks} GPUs are no multiple of tp x pp x cp = {model_ranks}", f"Take {near} GPUs.")
    if min(layout.micro_batch, layout.length, layout.accumulation) < 1:
        raise JobError("micro-batch, length and accumulation must be at least 1")
    if layout.length > LONGEST:
        raise JobError(f"length {layout.length:,} is beyond reason", f"At most {LONGEST:,} tokens.")
    if not 0 < fill <= 1:
        raise JobError(f"fill must be above 0 and at most 1 (got {fill:g})")
