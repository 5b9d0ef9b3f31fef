"""What comes after training, in finishing.json: the trainer notes how each part ended, and the agent does when a part
died without a word. None of it takes back that the run is trained and saved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.agent.verdict.outcome import AFTER_TRAINING, PhaseEnd, describe_exit
from rundir.after_training import Part, PartEnd, put_part_end, read_part_ends
from rundir.errors import RunDirError
from rundir.progress import Progress

PARTS = {"train": Part.HELD_OUT, "export": Part.EXPORT, "evaluate": Part.EVALUATE}
"""Phase to the part that it does after the last step is saved."""


def note_end(run_dir: Path, end: PhaseEnd, progress: Progress, attempt: int) -> None:
    """Notes a part that failed, unless the trainer has done so in this phase, or the agent ended it for a stop."""
    mine = progress.of_attempt(attempt)
    fine = mine.is_finished or not mine.is_trained if end.phase == "train" else end.exit_code == 0
    if fine or (end.ended_by_agent and not end.hang) or end.phase not in PARTS:
        return
    noted = read_part_ends(run_dir).get(PARTS[end.phase], PartEnd())
    if noted.time < time.time() - end.seconds - 1:
        words = (end.hang_words or describe_exit(end.exit_code), end.words)
        _note(run_dir, end.phase, "; ".join(part for part in words if part))


def note_untried(run_dir: Path, ends: Sequence[PhaseEnd], planned: Sequence[str]) -> None:
    """Notes the parts that were left out because one before them failed."""
    last = ends[-1] if ends else None
    if last is not None and last.phase in AFTER_TRAINING and last.exit_code and not last.ended_by_agent:
        for phase in planned[len(ends) :]:
            _note(run_dir, phase, f"not tried, as {last.phase} failed")


def _note(run_dir: Path, phase: str, message: str) -> None:
    with contextlib.suppress(RunDirError):  # a full disk: the record of the attempt tells
        put_part_end(run_dir, PARTS[phase], ok=False, message=message)
