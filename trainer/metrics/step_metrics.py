"""Metrics of every step. Tensors stay on the device until a flush, so a step costs no host-device sync."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from trainer.config import TrainerConfig
from trainer.errors import UserError
from trainer.metrics.observed import memory
from trainer.metrics.tensorboard import Board
from trainer.runtime.collectives import Ranks

logger = logging.getLogger(__name__)


@dataclass
class StepFacts:
    """What is known of a step without asking the device.

    Attributes:
        step: number of the step, from 1.
        epoch: epochs done after it.
        learning_rate: of this step.
        tokens, supervised_tokens: over all ranks.
        fill: tokens over the capacity of the step's packs.
        data_wait_seconds: time this rank waited for batches.
    """

    step: int
    epoch: float
    learning_rate: float
    tokens: int
    supervised_tokens: int
    fill: float
    data_wait_seconds: float


class StepMetrics:
    """Collects steps, and writes them to `logs/metrics.jsonl` and TensorBoard when flushed."""

    def __init__(self, run_dir: Path, config: TrainerConfig, ranks: Ranks, attempt: int, first_step: int) -> None:
        self._ranks, self._attempt = ranks, attempt
        self._every_seconds = config.logging.every_seconds
        self._waiting: list[tuple[StepFacts, dict[str, torch.Tensor], torch.Tensor]] = []
        self._flushed = time.monotonic()
        self._device = torch.device(config.execution.device)
        self._mfu_per_token = _mfu_per_token(run_dir)
        self._lines: TextIO | None = None
        self._board: Board | None = None
        if ranks.is_first:
            (run_dir / "logs").mkdir(exist_ok=True)
            self._lines = (run_dir / "logs" / "metrics.jsonl").open("a", encoding="utf-8")
            if config.logging.tensorboard:
                self._board = _board(run_dir, config, first_step)

    def add(self, facts: StepFacts, losses: dict[str, torch.Tensor], grad_norm: torch.Tensor) -> None:
        """Note a step; `losses` are this rank's parts of the step's `loss` and others. No tensor is read yet."""
        self._waiting.append((facts, losses, grad_norm.detach()))

    @property
    def due(self) -> bool:
        """It is time to flush."""
        return time.monotonic() - self._flushed >= self._every_seconds

    def flush(self) -> dict[str, Any] | None:
        """Write what has been noted; all ranks call this together. Returns the last step's line.

        Raises:
            UserError: the loss or the gradient is not a finite number.
        """
        if not self._waiting:
            return None
        facts, losses, norms = zip(*self._waiting, strict=True)
        self._waiting = []
        totals = self._ranks.sum(torch.stack([torch.stack(list(found.values())) for found in losses])).tolist()
        norms_now = torch.stack([norm.float() for norm in norms]).tolist()
        seconds = (time.monotonic() - self._flushed) / len(facts)
        self._flushed = time.monotonic()
        used = self._memory()
        lines = [
            {
                **vars(fact),
                **dict(zip(names, sums, strict=True)),
                "grad_norm": norm,
                "seconds": seconds,
                "tokens_per_second": fact.tokens / seconds,
                **used,
                **self._mfu(fact.tokens / seconds),
            }
            for fact, names, sums, norm in zip(facts, losses, totals, norms_now, strict=True)
        ]
        for line in lines:
            self.write(line)
        _refuse_unfinite(lines)
        return lines[-1]

    def _memory(self) -> dict[str, int]:
        """The peak that this rank has taken: of the GPU's memory, or of the host's on the CPU."""
        found = memory(self._device)
        size = found["process"] if found["reserved"] is None else found["reserved"]
        return {} if size is None else {"memory_bytes": size}

    def _mfu(self, tokens_per_second: float) -> dict[str, float]:
        return {} if self._mfu_per_token is None else {"mfu": tokens_per_second * self._mfu_per_token}

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics; numbers also go to TensorBoard."""
        if self._lines is None:
            return
        try:
            self._lines.write(json.dumps({**line, "attempt": self._attempt, "time": time.time()}) + "\n")
            self._lines.flush()
            if self._board is not None:
                self._board.write(line)
        except OSError as error:  # a full disk loses lines of metrics, not the run
            logger.warning(f"metrics of step {line['step']} are lost: {error}")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when the line was written
            if self._lines is not None:
                self._lines.close()
            if self._board is not None:
                self._board.close()


def _board(run_dir: Path, config: TrainerConfig, first_step: int) -> Board | None:
    """TensorBoard's files; storage that refuses them loses the curves, not the run."""
    try:
        return Board(run_dir, config, first_step)
    except OSError as error:
        logger.warning(f"nothing is written for TensorBoard: {error}")
        return None


def _mfu_per_token(run_dir: Path) -> float | None:
    """Share of the GPUs' peak that a token a second is, as the plan counts it; None where it does not know the GPU."""
    try:
        prediction = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))["prediction"]
        return float(prediction["mfu"]) / float(prediction["tokens_per_second"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _refuse_unfinite(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(line[name]):
                raise UserError(
                    f"{name} is {line[name]} at step {line['step']}",
                    remedy="lower training.learning_rate, lengthen warmup_steps, or look at the rows of that step; "
                    "the checkpoints before it are good",
                )
