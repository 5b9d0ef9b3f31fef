"""TensorBoard: what was trained, how it goes, and on what, in three groups with the loss first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer.config import TrainerConfig

SYSTEM = (
    "tokens_per_second",
    "mfu",
    "memory_bytes",
    "seconds",
    "data_wait_seconds",
    "fill",
    "tokens",
    "supervised_tokens",
)
"""Metrics of the machines and the data; those of an evaluation begin with `eval_`, and all others are of training."""
LAYOUT = {
    "loss": {"loss": ["Multiline", ["train/loss", "eval/loss"]]},
    "training": {name: ["Multiline", [f"train/{name}"]] for name in ("learning_rate", "grad_norm")},
    "speed": {name: ["Multiline", [f"system/{name}"]] for name in ("tokens_per_second", "mfu", "memory_bytes")},
}
"""The page `Custom Scalars`."""
RESULTS = ("train/loss", "eval/loss")


class Board:
    """Event files under the run directory.

    Args:
        run_dir: the run directory.
        config: the plan's trainer part.
        first_step: where this attempt goes on; what was written of later steps is not shown any more.
    """

    def __init__(self, run_dir: Path, config: TrainerConfig, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        self._writer.add_custom_scalars(LAYOUT)
        self._write_hyper_parameters(config)
        if (job := run_dir / "job.yaml").exists():
            self._writer.add_text("job", _code(job.read_text(encoding="utf-8", errors="replace"), "yaml"), first_step)
        settings = json.dumps(config.model_dump(mode="json"), indent=1)
        self._writer.add_text("settings", _code(settings, "json"), first_step)

    def _write_hyper_parameters(self, config: TrainerConfig) -> None:
        """For the page `HParams`; torch's own call would make a run of its own for them."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(_flat(config), dict.fromkeys(RESULTS, 0.0)):
            self._writer.file_writer.add_summary(summary)

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics."""
        for name, value in sorted(line.items(), key=lambda item: item[0] != "loss"):
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(tag(name), value, line["step"])

    def close(self) -> None:
        self._writer.close()


def tag(name: str) -> str:
    """The name of a metric on the board: its group, a slash, what is measured."""
    if name.startswith("eval_"):
        return f"eval/{name.removeprefix('eval_')}"
    return f"system/{name}" if name in SYSTEM else f"train/{name}"


def _code(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"


def _flat(section: BaseModel, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Dotted names to values that a table can hold."""
    found: dict[str, bool | int | float | str] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = (
                value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
            )
    return found
