"""From speed to hours, GPU-hours, money and walltime slices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError
from launcher.sizing.gpus import Gpu
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.speed.predict import Speed

SLICE_OVERHEAD_HOURS = 0.2
"""What one walltime slice spends on queueing its processes, loading and the last save: not training."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What training on so many tokens takes.

    Attributes:
        tokens: Tokens that are trained on, all epochs together.
        steps: Optimizer steps.
        hours: Wall-clock hours.
        hours_interval: Between which nine in ten measurements put them.
        gpu_hours: Hours times GPUs.
        cost: US dollars; `None` without a price.
        price: US dollars per GPU-hour.
        price_note: When and where the price was seen.
        slices: Walltime slices that the run needs; 0 where no walltime is given.
    """

    tokens: int
    steps: int
    hours: float
    hours_interval: tuple[float, float]
    gpu_hours: float
    cost: float | None
    price: float | None
    price_note: str
    slices: int

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed and stored."""
        return {
            "tokens": self.tokens,
            "steps": self.steps,
            "hours": self.hours,
            "hours_interval": list(self.hours_interval),
            "gpu_hours": self.gpu_hours,
            "cost_usd": self.cost,
            "usd_per_gpu_hour": self.price,
            "price_note": self.price_note,
            "walltime_slices": self.slices,
        }


def bill(
    speed: Speed, layout: ParallelLayout, gpu: Gpu, tokens: int, walltime_hours: float = 0.0, steps: int = 0
) -> Bill:
    """Hours and cost of training on so many tokens.

    Args:
        speed: What the layout reaches.
        layout: The layout, for its GPUs.
        gpu: Which one, for its price.
        tokens: Tokens without padding, all epochs together.
        walltime_hours: Longest life of one attempt; 0 has no end.
        steps: Steps of the run where they are known: those of whole epochs, the last of each not full.

    Raises:
        JobError: there are no tokens, or a slice is too short to train in.
    """
    if tokens < 1:
        raise JobError(f"{tokens:,} tokens are nothing to train on")
    hours = (speed.step_seconds * steps if steps else tokens / speed.tokens_per_second) / 3600
    in_step = layout.data_ranks * layout.accumulation * layout.micro_batch * layout.length
    return Bill(
        tokens=tokens,
        steps=steps or math.ceil(tokens / in_step),
        hours=hours,
        hours_interval=(hours * speed.tokens_per_gpu / speed.high, hours * speed.tokens_per_gpu / speed.low),
        gpu_hours=hours * layout.ranks,
        cost=None if gpu.price is None else hours * layout.ranks * gpu.price,
        price=gpu.price,
        price_note=f"{gpu.price_date}, {gpu.price_source}".strip(", ")
        if gpu.price
        else "no public price: give --price",
        slices=slices_of(hours, walltime_hours),
    )


def slices_of(hours: float, walltime_hours: float) -> int:
    """Attempts of a walltime that so many hours of training need; 0 without a walltime.

    Raises:
        JobError: a slice is too short to train in.
    """
    if not walltime_hours:
        return 0
    useful = walltime_hours - SLICE_OVERHEAD_HOURS
    if useful <= 0:
        raise JobError(
            f"a walltime of {walltime_hours:g} h leaves no time to train",
            f"Starting and saving take about {60 * SLICE_OVERHEAD_HOURS:.0f} minutes; take an hour or more.",
        )
    return math.ceil(hours / useful)
