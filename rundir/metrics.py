"""logs/metrics.jsonl: one line for each logged step, and for each evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rundir.document import Document, as_integer, as_number, field
from rundir.files import json_lines
from rundir.paths import RunPaths


class Metrics(Document):
    """One line: of a step when it has a `loss`, of an evaluation when it has an `eval_loss`."""

    step: int | None = field(as_integer, default=None)
    attempt: int | None = field(as_integer, default=None)
    epoch: float | None = field(as_number, default=None)
    loss: float | None = field(as_number, default=None)
    learning_rate: float | None = field(as_number, default=None)
    grad_norm: float | None = field(as_number, default=None)
    tokens_per_second: float | None = field(as_number, default=None)
    eval_loss: float | None = field(as_number, default=None)
    time: float | None = field(as_number, default=None)

    @property
    def is_training(self) -> bool:
        """Whether it tells about a step."""
        return "loss" in self._object

    @property
    def is_evaluation(self) -> bool:
        """Whether it tells about an evaluation."""
        return "eval_loss" in self._object


def read_metrics(run_dir: Path) -> Iterator[Metrics]:
    """All lines in order; one that was cut off by a crash is left out."""
    return (Metrics.from_json(line) for line in json_lines(RunPaths(run_dir).metrics))


def last_of_each_step(lines: Iterable[Metrics]) -> list[Metrics]:
    """Steps in order; a step that was trained again after a crash counts as it was trained last."""
    by_step = {line.step: line for line in lines if line.step is not None}
    return [by_step[step] for step in sorted(by_step)]
