"""What the memory of one rank depends on, as the formulas of this package pass it around."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.sizing.hardware import Hardware
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.shape import ModelShape
from launcher.sizing.trainer_model import TrainerModel


@dataclass(frozen=True, kw_only=True)
class MemoryInput:
    """A model, a layout, a trainer and the ranks' hardware."""

    shape: ModelShape
    layout: ParallelLayout
    trainer: TrainerModel = field(default_factory=TrainerModel)
    hardware: Hardware = field(default_factory=Hardware)
