"""The learning rate of a step: a pure function, the same curve as Transformers' scheduler of that name at the peak.

Transformers' warm-up of W steps has rate 0 in its first step and reaches the peak in step W + 1. Here step k of the
warm-up has what Transformers gives step k + 1, so the first step learns and the peak is reached in step W; from step
W + 1 on, and wherever Transformers' own curve does not begin at 0, the two are equal step by step.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import get_scheduler

from trainer.config import TrainingConfig
from trainer.errors import UserError
from trainer.schedule_rules import refuse_schedule, scheduler_arguments, warmup_count

FIRST_DEFINITION, DEFINITION = 1, 2
"""Checkpoints name the definition that their run began with, and the run keeps it. In the first, warm-up began at 0,
and `lr_end` and `min_lr` counted as shares of the peak."""
BEGINS_ABOVE_ZERO = ("constant", "cosine_warmup_with_min_lr")


class LearningRate:
    """Learning rate by step.

    Args:
        training: peak, name, arguments and warm-up.
        max_steps: steps of the whole run.
        definition: what the run began with.

    Raises:
        UserError: the schedule cannot be followed; all that is wrong is in the message.
    """

    def __init__(self, training: TrainingConfig, max_steps: int, definition: int = DEFINITION) -> None:
        self.definition = definition
        self.warmup_steps = warmup_count(training, max_steps)
        self._peak = float(training.learning_rate)
        old = definition == FIRST_DEFINITION
        if not old:
            refuse_schedule(training, max_steps)
        self._learns_at_once = not old and training.lr_scheduler_type not in BEGINS_ABOVE_ZERO
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0 if old else self._peak)
        arguments = dict(training.lr_scheduler_kwargs) if old else scheduler_arguments(training, max_steps)
        self._multiplier = self._of_transformers(training, max_steps, optimizer, arguments)

    def _of_transformers(self, training: TrainingConfig, max_steps: int, optimizer: Any, arguments: Any) -> Any:
        try:
            scheduler = get_scheduler(
                training.lr_scheduler_type,
                optimizer,
                num_warmup_steps=self.warmup_steps,
                num_training_steps=None if "num_stable_steps" in arguments else max_steps,
                scheduler_specific_kwargs=arguments,
            )
            return scheduler.lr_lambdas[0]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"lr_scheduler_type {training.lr_scheduler_type} refuses its arguments: {error}",
                remedy="see training.lr_scheduler_kwargs in the job file",
            ) from None

    def at(self, step: int) -> float:
        """Learning rate of global step `step`, from 0."""
        if self._learns_at_once and step < self.warmup_steps:
            step += 1
            if step == self.warmup_steps:
                return self._peak  # also where the run ends here and a decay would have no steps
        return self._peak * float(self._multiplier(step))
