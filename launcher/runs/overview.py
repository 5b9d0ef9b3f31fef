"""What one wants to know of a run at a glance: when, how long, which model, how far, how good."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.rundir import read_attempts, read_plan, read_progress

METRICS = ("logs", "metrics.jsonl")


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A run at a glance; what it has not reached yet is None.

    Attributes:
        run_dir: Its directory.
        model: The model's name or folder.
        method: `full`, `lora`, or `lora nf4`.
        begun: Unix seconds at which its first attempt was submitted or started.
        seconds: That its attempts have lived, the time between them left out.
        step: The last step of training.
        max_steps: Its last step as planned.
        loss: Of that step.
        eval_loss: The newest held-out loss.
    """

    run_dir: Path
    model: str
    method: str
    begun: float | None
    seconds: float | None
    step: int | None
    max_steps: int | None
    loss: float | None
    eval_loss: float | None

    def date(self) -> str:
        """When it began, with its time zone."""
        return moment(self.begun) if self.begun is not None else ""


def overview(run_dir: Path) -> Overview:
    """Reads it.

    Raises:
        cluster.ClusterError: there is no plan, or a damaged one.
    """
    trainer, progress, attempts = (
        read_plan(run_dir).get("trainer") or {},
        read_progress(run_dir) or {},
        read_attempts(run_dir),
    )
    first = attempts[0] if attempts else {}
    method = trainer.get("method") or {}
    return Overview(
        run_dir=run_dir,
        model=_short(str((trainer.get("model") or {}).get("path", ""))),
        method=" ".join(filter(None, (method.get("kind"), method.get("quantization")))),
        begun=first.get("submitted") or first.get("started"),
        seconds=sum(_lived(record, progress) for record in attempts) if attempts else None,
        step=progress.get("step"),
        max_steps=progress.get("max_steps"),
        loss=progress.get("loss"),
        eval_loss=last_eval_loss(run_dir),
    )


def moment(seconds: float) -> str:
    """A time as people read it, with its zone: `2026-11-30 13:40 +0100`."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %z")


def last_eval_loss(run_dir: Path, step: int | None = None) -> float | None:
    """The newest held-out loss, or the newest one up to a step."""
    found = None
    path = run_dir.joinpath(*METRICS)
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if '"eval_loss"' in text and (line := _parsed(text)) and (step is None or line["step"] <= step):
                found = line["eval_loss"]
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    """A line with a held-out loss; None when it was cut off by a crash."""
    try:
        line = json.loads(text)
        return line if isinstance(line["eval_loss"], float | int) and isinstance(line["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def _lived(record: dict[str, Any], progress: dict[str, Any]) -> float:
    """Seconds of one attempt; of one that is open, until its last sign of life."""
    started = record.get("started") or 0.0
    beat = progress.get("heartbeat") if progress.get("attempt") == record["attempt"] else None
    return max(0.0, (record.get("ended") or beat or started) - started)


def _short(model: str) -> str:
    """A folder's own name; a name on the hub as it is."""
    return Path(model).name if model.startswith("/") else model
