"""What comes after training, in finishing.json: the trainer notes how each part ended, and the agent does when a part
died without a word. None of it takes back that the run is trained and saved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.agent.outcome import AFTER_TRAINING, PhaseEnd, describe_exit, is_trained
from cluster.contract import ClusterError
from cluster.rundir import FINISHING, of_attempt, read_json_loosely, write_json_atomic

PARTS = {"train": "held_out", "export": "export", "evaluate": "evaluate"}
"""Phase to the part that it does after the last step is saved."""


def note_end(run_dir: Path, end: PhaseEnd, progress: Mapping[str, Any] | None, attempt: int) -> None:
    """Notes a part that failed, unless the trainer has done so in this phase, or the agent ended it for a stop."""
    mine = of_attempt(progress, attempt)
    fine = mine.get("state") == "finished" or not is_trained(mine) if end.phase == "train" else end.exit_code == 0
    if fine or (end.ended_by_agent and not end.hang) or end.phase not in PARTS:
        return
    noted = read_json_loosely(run_dir / FINISHING).get(PARTS[end.phase])
    if _time(noted) < time.time() - end.seconds - 1:
        words = (end.hang_words or describe_exit(end.exit_code), end.words)
        _note(run_dir, end.phase, "; ".join(part for part in words if part))


def note_untried(run_dir: Path, ends: Sequence[PhaseEnd], planned: Sequence[str]) -> None:
    """Notes the parts that were left out because one before them failed."""
    last = ends[-1] if ends else None
    if last is not None and last.phase in AFTER_TRAINING and last.exit_code and not last.ended_by_agent:
        for phase in planned[len(ends) :]:
            _note(run_dir, phase, f"not tried, as {last.phase} failed")


def _note(run_dir: Path, phase: str, message: str) -> None:
    entry = {"ok": False, "message": message, "remedy": "", "time": time.time()}
    with contextlib.suppress(ClusterError):  # a full disk: the record of the attempt tells
        known = read_json_loosely(run_dir / FINISHING)
        write_json_atomic(run_dir / FINISHING, {**known, PARTS[phase]: entry})


def _time(entry: Any) -> float:
    found = entry.get("time") if isinstance(entry, dict) else None
    return float(found) if isinstance(found, int | float) else 0.0
