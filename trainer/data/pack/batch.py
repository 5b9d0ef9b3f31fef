"""Micro-batches: packs laid end to end, with everything the GPU needs computed here, on the CPU, once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import torch

from trainer.data.shards.token_store import TokenStore

T = TypeVar("T")


@dataclass
class Batch:
    """One micro-batch as one flat row of T tokens in S segments, M of the tokens supervised.

    Attributes:
        input_ids, position_ids: int64 [1, T]; positions start at 0 in every segment.
        cu_seqlens: int32 [S + 1], where segments start and end.
        target_index: int64 [M], positions whose next token is supervised.
        target_ids: int64 [M], that next token.
        target_weights: float32 [M], its weight in the loss before division by the step's total.
        max_seqlen, supervised: counts, on the CPU.
        lengths: of the segments, on the CPU.
        padded_index: int64 [S, max_seqlen], flat position of each place when segments are padded to one length.
        restore_index: int64 [T], its inverse.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    target_index: torch.Tensor
    target_ids: torch.Tensor
    target_weights: torch.Tensor
    padded_index: torch.Tensor
    restore_index: torch.Tensor
    max_seqlen: int
    supervised: int
    lengths: list[int] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`, copied without waiting."""
        moved: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            moved[part.name] = value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        return Batch(**moved)

    def pin(self) -> Batch:
        """The same batch in page-locked memory, so that copies to a GPU overlap with its work."""
        for part in fields(self):
            value = getattr(self, part.name)
            if torch.is_tensor(value):
                setattr(self, part.name, value.pin_memory())
        return self


class Reduction:
    """Weights of supervised tokens, and their sum over a set of conversations: the loss's denominator.

    `token`: every supervised token counts the same. `sequence`: every row counts the same, however many pieces or
    renderings it has. A weight that a row carries multiplies both.
    """

    def __init__(self, store: TokenStore, reduction: str) -> None:
        self._targets = store.rows["targets"]
        self._weights = store.rows["weight"].astype(np.float64)
        if reduction == "sequence":
            self._weights = self._weights / _targets_of_rows(store)

    def token_weight(self, number: int) -> float:
        """Weight of each supervised token of conversation `number`."""
        return float(self._weights[number])

    def total(self, numbers: np.ndarray) -> float:
        """Sum of the token weights of the conversations `numbers`."""
        return float((self._weights[numbers] * self._targets[numbers]).sum())


def _targets_of_rows(store: TokenStore) -> np.ndarray:
    """Supervised tokens of the row that each conversation is a piece of."""
    if store.contents is None:  # prepared when every piece counted as a row: such a run keeps its loss
        return np.asarray(store.rows["targets"])
    return np.asarray(np.bincount(store.groups, store.rows["targets"])[store.groups])


def collate(store: TokenStore, numbers: list[int], reduction: Reduction) -> Batch:
    """The micro-batch of the conversations `numbers`; of none, one unsupervised token that costs nothing."""
    if not numbers:
        return _assemble([np.zeros(1, np.int64)], [np.zeros(1, np.uint8)], [0.0])
    read = [store.conversation(number) for number in numbers]
    tokens = [ids.astype(np.int64) for ids, _ in read]
    return _assemble(tokens, [mask for _, mask in read], [reduction.token_weight(n) for n in numbers])


def _assemble(tokens: list[np.ndarray], masks: list[np.ndarray], weights: list[float]) -> Batch:
    lengths = np.array([len(ids) for ids in tokens])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    flat = np.concatenate(tokens)
    supervised = np.concatenate(masks).astype(bool)
    supervised[starts] = False  # nothing predicts a segment's first token
    predicted = np.nonzero(supervised)[0]
    segment = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(flat)) - starts[segment]
    width = int(lengths.max())
    padded = np.minimum(starts[:, None] + np.arange(width), ends[:, None] - 1)
    as_tensor = torch.from_numpy
    return Batch(
        input_ids=as_tensor(flat)[None],
        position_ids=as_tensor(positions)[None],
        cu_seqlens=as_tensor(np.concatenate([[0], ends]).astype(np.int32)),
        target_index=as_tensor(predicted - 1),
        target_ids=as_tensor(flat[predicted]),
        target_weights=as_tensor(np.array(weights, np.float32)[segment[predicted]]),
        padded_index=as_tensor(padded),
        restore_index=as_tensor(segment * width + positions),
        max_seqlen=width,
        supervised=len(predicted),
        lengths=lengths.tolist(),
    )


def prefetched(make: Callable[[int], T], first: int, last: int, depth: int = 3) -> Generator[T, None, None]:
    """`make(i)` for first <= i < last, made ahead by a thread; an exception in it is raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for number in range(first, last):
                if closed.is_set():
                    return
                put((make(number), None))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        for _ in range(first, last):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # without an error there is one
    finally:
        closed.set()
