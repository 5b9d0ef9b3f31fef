"""The one global order of a run: which packs form step s, and who works on which of them.

A step is a fixed set of packs, whatever the number of ranks. The position in the data is one number, the step; every
rank derives everything else from (index, seed), so resuming needs no communication. It packs one epoch, the one that
it goes on in; how many steps the epochs before had is remembered (`trainer.data.pack.epoch_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config import TrainerConfig
from trainer.data.pack.holdout import split_of
from trainer.data.pack.packing import Packs, alone, pack
from trainer.data.shards.token_store import TokenStore

EVAL_EPOCH = 2**31 - 1  # its own stream of random numbers, never reached by training


@dataclass(frozen=True)
class Position:
    """A step's place: epoch from 0, step within it, and how many steps that epoch has."""

    epoch: int
    step: int
    steps: int

    @property
    def epochs_done(self) -> float:
        return self.epoch + self.step / self.steps


class GlobalOrder:
    """Steps of the training rows of a run.

    Args:
        store: the training conversations.
        config: seed, max_length, packs_per_step, epochs, sources' weights, held-out share.
        steps_of_epochs: what is known of earlier attempts.

    Attributes:
        max_steps: steps of the whole run.
        train, held_out: conversation numbers.
        steps_of_epochs: of the epochs that have been counted.
    """

    def __init__(self, store: TokenStore, config: TrainerConfig, steps_of_epochs: Sequence[int] = ()) -> None:
        self.store = store
        self.config = config
        self.train, self.held_out = split_of(store, config.data.eval.split, config.training.seed)
        self._cached: tuple[int, Packs] | None = None
        self.steps_of_epochs = list(steps_of_epochs)
        self.max_steps = config.training.max_steps or self._steps_of_all_epochs()

    def locate(self, step: int) -> Position:
        """Epoch and place of global step `step`, from 0."""
        epoch = 0
        while step >= self.steps_in(epoch):
            step -= self.steps_in(epoch)
            epoch += 1
        return Position(epoch, step, self.steps_in(epoch))

    def packs_of(self, step: int) -> list[np.ndarray]:
        """Conversation numbers of each pack of global step `step`.

        The packs of an epoch are spread evenly over its steps, so no step is a small left-over.
        """
        at = self.locate(step)
        packs = self._epoch(at.epoch)
        first, last = (len(packs) * edge // at.steps for edge in (at.step, at.step + 1))
        return [packs[number] for number in range(first, last)]

    def steps_in(self, epoch: int) -> int:
        while len(self.steps_of_epochs) <= epoch:
            packs = len(self._epoch(len(self.steps_of_epochs)))
            self.steps_of_epochs.append(math.ceil(packs / self.config.execution.packs_per_step))
        return self.steps_of_epochs[epoch]

    def _steps_of_all_epochs(self) -> int:
        epochs = self.config.training.num_train_epochs
        whole = sum(self.steps_in(epoch) for epoch in range(int(epochs)))
        part = epochs - int(epochs)
        return whole + (math.ceil(part * self.steps_in(int(epochs))) if part else 0)

    def _epoch(self, epoch: int) -> Packs:
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._pack_epoch(epoch))
        return self._cached[1]

    def _pack_epoch(self, epoch: int) -> Packs:
        members = self._members(epoch)
        return pack_members(self.store, members, self.config, epoch)

    def _members(self, epoch: int) -> np.ndarray:
        """Conversations of an epoch: each source as often as its weight says, the fraction drawn anew each epoch."""
        rng = np.random.default_rng((self.config.training.seed, epoch, 1))
        sources = self.store.rows["source"][self.train]
        members = []
        for index, source in enumerate(self.config.data.train):
            own = self.train[sources == index]
            part = round((source.weight % 1) * len(own))
            members += [own] * int(source.weight) + ([rng.choice(own, part, replace=False)] if part else [])
        return np.concatenate(members)


def pack_members(store: TokenStore, members: np.ndarray, config: TrainerConfig, epoch: int) -> Packs:
    """Packs of the conversations `members`, packed or each alone as the job file says."""
    seed = config.training.seed
    if config.data.packing:
        packs = pack(store.rows["length"][members], config.data.max_length, seed, epoch)
    else:
        packs = alone(len(members), seed, epoch)
    return Packs(members[packs.order], packs.starts)


def deal(work: np.ndarray, world_size: int, accumulation: int, micro_batch: int) -> np.ndarray:
    """Deal the packs of a step to ranks and micro-steps so that work is level.

    Packs are sorted by work and grouped into micro-batches of level total (largest first into the lightest that has
    room); micro-batches of like work share a micro-step, because ranks wait for each other there, and the order of
    ranks turns round from one micro-step to the next.

    Args:
        work: float [packs], at most world_size * accumulation * micro_batch of them.

    Returns:
        int64 [world_size, accumulation, micro_batch], pack numbers, -1 where there is none.
    """
    slots = world_size * accumulation
    batches: list[list[int]] = [[] for _ in range(slots)]
    totals = np.zeros(slots)
    for number in np.argsort(-work, kind="stable"):
        lightest = int(np.argmin(totals))
        batches[lightest].append(int(number))
        totals[lightest] += work[number] if len(batches[lightest]) < micro_batch else np.inf
    totals = np.array([work[batch].sum() for batch in batches])
    dealt = np.full((world_size, accumulation, micro_batch), -1, np.int64)
    for place, slot in enumerate(np.argsort(-totals, kind="stable")):
        micro_step, rank = divmod(place, world_size)
        rank = rank if micro_step % 2 == 0 else world_size - 1 - rank
        dealt[rank, micro_step, : len(batches[slot])] = batches[slot]
    return dealt


def work_of(packs: list[np.ndarray], lengths: np.ndarray, linear: float) -> np.ndarray:
    """Work of each pack, c * L + sum of squares, in units of one attention score.

    Args:
        linear: c, the cost of a token outside attention in the same units (parameters per layer / attention width).
    """
    return np.array([linear * lengths[pack].sum() + (lengths[pack].astype(np.float64) ** 2).sum() for pack in packs])
