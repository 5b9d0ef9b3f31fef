"""What one rank does in each step: its share of the step's packs, collated into micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.config import TrainerConfig
from trainer.data.pack.batch import Batch, Reduction, collate
from trainer.data.pack.global_order import GlobalOrder, deal, work_of
from trainer.model.build import attention_work


@dataclass
class StepWork:
    """One rank's share of a step.

    Attributes:
        batches: its micro-batches, in order.
        total: the loss's denominator over the whole step, on all ranks the same.
        tokens, supervised_tokens: over all ranks.
    """

    batches: list[Batch]
    total: float
    tokens: int
    supervised_tokens: int


class StepSource:
    """Makes each step's work for one rank."""

    def __init__(self, order: GlobalOrder, config: TrainerConfig, rank: int, pin: bool) -> None:
        self._order, self._config, self._rank, self._pin = order, config, rank, pin
        self._reduction = Reduction(order.store, config.loss.reduction)
        self._linear = attention_work(config)

    def step(self, number: int) -> StepWork:
        """The work of global step `number`, from 0."""
        rows, execution = self._order.store.rows, self._config.execution
        packs = self._order.packs_of(number)
        work = work_of(packs, rows["length"], self._linear)
        dealt = deal(work, execution.world_size, execution.accumulation, execution.micro_batch)[self._rank]
        everyone = np.concatenate(packs)
        total = self._reduction.total(everyone) or 1.0  # rows of weight 0 alone, as older folders hold: no gradient
        batches = [self._batch([int(n) for at in slot if at >= 0 for n in packs[at]]) for slot in dealt]
        lengths, targets = rows["length"][everyone], rows["targets"][everyone]
        return StepWork(batches, total, int(lengths.sum()), int(targets.sum()))

    def _batch(self, numbers: list[int]) -> Batch:
        batch = collate(self._order.store, numbers, self._reduction)
        return batch.pin() if self._pin else batch
