"""Engines behind one small interface: DeepSpeed ZeRO 0 to 3, and FSDP2. The same job gives the same curve on each."""

from __future__ import annotations

from trainer.config import TrainerConfig
from trainer.engines.base import Engine, Range
from trainer.model.supervised import SupervisedModel


def build_engine(model: SupervisedModel, config: TrainerConfig) -> Engine:
    """The engine that the plan chose, around `model`. Needs an initialised process group.

    Raises:
        UserError: the engine is not installed or refuses the model.
    """
    if config.execution.engine == "fsdp2":
        from trainer.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(model, config)
    from trainer.engines.zero import ZeroEngine

    return ZeroEngine(model, config)


__all__ = ["Engine", "Range", "build_engine"]
