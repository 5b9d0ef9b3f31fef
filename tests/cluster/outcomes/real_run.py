"""What tests ask of real training ranks, on whatever backend: how far they are, and what they made."""

import hashlib
from pathlib import Path
from typing import Any

from rundir.metrics import last_of_each_step, read_metrics
from tests.cluster.outcomes.standin_run import until
from tests.support.documents import read_attempts, read_progress


def trains(run: Path, attempt: int, steps: int = 0, seconds: float = 180.0) -> dict[str, Any]:
    """Waits until an attempt of real ranks has made more than so many steps; gives its record."""

    def made() -> bool:
        progress = read_progress(run) or {}
        if progress.get("attempt") != attempt or progress.get("state") != "training":
            return False
        return progress["step"] > steps + (progress.get("resumed_from") or 0)

    until(made, f"steps of attempt {attempt}", seconds)
    return read_attempts(run)[attempt]


def checkpoint_hashes(run_dir: Path, step: int) -> dict[str, str]:
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def closed(run: Path, attempt: int, seconds: float = 120) -> dict[str, Any]:
    """Waits until an attempt has its outcome; gives its record."""
    return until(
        lambda: next((one for one in read_attempts(run)[attempt:] if one.get("outcome")), None), "an outcome", seconds
    )


def losses(run: Path) -> dict[int, float]:
    lines = last_of_each_step(line for line in read_metrics(run) if line.is_training)
    return {line.step: line.loss for line in lines if line.step is not None and line.loss is not None}
