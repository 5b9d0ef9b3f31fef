"""When a run saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint.store import CheckpointStore
from trainer.config import CheckpointConfig
from trainer.run.saving import Saver, pointer
from trainer.runtime.phase_clock import PhaseClock
from trainer.runtime.progress import ProgressWriter


def saver(folder: Path, **settings: Any) -> Saver:
    ranks: Any = None  # nothing is saved here
    store = CheckpointStore(folder / "checkpoints", ranks, 3, print)
    config = CheckpointConfig(**{"every_minutes": None, **settings})
    return Saver(store, config, ProgressWriter(folder, 0), PhaseClock(), print)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"every_steps": 4}, [4, 8, 12]),
        ({"every_steps": 6, "permanent_every_steps": 4}, [4, 6, 8, 12]),
        ({"every_minutes": 15}, []),
    ],
)
def test_saves_by_steps(tmp_path: Path, settings: dict[str, Any], steps: list[int]) -> None:
    own = saver(tmp_path, **settings)
    assert [step for step in range(1, 13) if own.wants(step, overdue=False, writing=False)] == steps


@pytest.mark.parametrize(
    ("overdue", "writing", "wanted"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_time_alone_never_makes_training_wait_for_the_save_before(
    tmp_path: Path, overdue: bool, writing: bool, wanted: bool
) -> None:
    assert saver(tmp_path, every_minutes=1).wants(3, overdue, writing) is wanted


def test_permanent_checkpoints_are_those_of_their_steps(tmp_path: Path) -> None:
    own = saver(tmp_path, every_steps=2, permanent_every_steps=6)
    assert [step for step in range(1, 13) if own.is_permanent(step)] == [6, 12]
    assert not any(saver(tmp_path, every_steps=2).is_permanent(step) for step in range(1, 13))


def test_nothing_is_under_way_before_the_first_save(tmp_path: Path) -> None:
    own = saver(tmp_path, every_steps=2)
    own.finish()
    assert (own.still_writing, own.overdue, own.saved_step) == (False, False, 0)


def test_progress_names_a_checkpoint_below_the_run() -> None:
    assert pointer(Path("/runs/a/checkpoints/step-00000004"), 4) == {"step": 4, "path": "checkpoints/step-00000004"}
