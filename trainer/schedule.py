"""The learning rate of a step: a pure function, the same curve as Transformers' scheduler of that name."""

from __future__ import annotations

import math

import torch
from transformers import get_scheduler

from trainer.config import TrainingConfig
from trainer.errors import UserError


class LearningRate:
    """Learning rate by step.

    Args:
        training: peak, name, arguments and warm-up.
        max_steps: steps of the whole run.

    Raises:
        UserError: the schedule refuses its arguments.
    """

    def __init__(self, training: TrainingConfig, max_steps: int) -> None:
        warmup = training.warmup_steps
        self.warmup_steps = math.ceil(warmup * max_steps) if warmup < 1 else int(warmup)
        self._peak = float(training.learning_rate)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        try:
            scheduler = get_scheduler(
                training.lr_scheduler_type,
                optimizer,
                num_warmup_steps=self.warmup_steps,
                num_training_steps=max_steps,
                scheduler_specific_kwargs=dict(training.lr_scheduler_kwargs),
            )
            self._multiplier = scheduler.lr_lambdas[0]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"lr_scheduler_type {training.lr_scheduler_type} refuses its arguments: {error}",
                remedy="see training.lr_scheduler_kwargs in the job file",
            ) from None

    def at(self, step: int) -> float:
        """Learning rate of global step `step`, from 0."""
        return self._peak * float(self._multiplier(step))
