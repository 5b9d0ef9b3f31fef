"""Summarise a run in one line: start, duration, model, step and losses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rundir.attempts import AttemptRecord, read_attempts
from rundir.metrics import read_metrics
from rundir.plan import read_plan
from rundir.progress import Progress, read_progress


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The summary of a run; None for what it has not reached yet.

    Attributes:
        run_dir: Its directory.
        model: The model's name or folder.
        method: `full`, `lora`, or `lora nf4`.
        begun: Unix seconds at which its first attempt was submitted or started.
        seconds: Total time of its attempts, without the time between them.
        step: The last step of training.
        max_steps: Its last step as planned.
        loss: Training loss at `step`.
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
        """Return when the run began, with the time zone; empty if it has not."""
        return moment(self.begun) if self.begun is not None else ""


def overview(run_dir: Path) -> Overview:
    """Reads it.

    Raises:
        cluster.ClusterError: there is no plan, or a damaged one.
    """
    plan, progress, attempts = read_plan(run_dir), read_progress(run_dir), read_attempts(run_dir)
    first, method = attempts[0] if attempts else AttemptRecord(), plan.section("method")
    return Overview(
        run_dir=run_dir,
        model=_short(str(plan.section("model").get("path", ""))),
        method=" ".join(filter(None, (method.get("kind"), method.get("quantization")))),
        begun=first.submitted or first.started,
        seconds=sum(_lived(record, progress) for record in attempts) if attempts else None,
        step=progress.step,
        max_steps=progress.max_steps,
        loss=progress.loss,
        eval_loss=last_eval_loss(run_dir),
    )


def moment(seconds: float) -> str:
    """Format Unix seconds in local time, with the zone: `2026-11-30 13:40 +0100`."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %z")


def last_eval_loss(run_dir: Path, step: int | None = None) -> float | None:
    """Return the newest held-out loss, or the newest one up to a step; None if there is none."""
    found = None
    for line in read_metrics(run_dir):
        if line.eval_loss is not None and line.step is not None and (step is None or line.step <= step):
            found = line.eval_loss
    return found


def _lived(record: AttemptRecord, progress: Progress) -> float:
    """Return the seconds of one attempt; of a running one, until its last heartbeat."""
    started = record.started or 0.0
    return max(0.0, (record.ended or progress.of_attempt(record.number).heartbeat or started) - started)


def _short(model: str) -> str:
    """Return the last part of a folder's path; a name on the hub stays as it is."""
    return Path(model).name if model.startswith("/") else model
