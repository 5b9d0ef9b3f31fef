"""Notes of how the parts after training ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rundir.after_training import Part
from trainer.errors import UserError
from trainer.run.finishing import NO_SPACE, OUT_OF_MEMORY, finishing, note

FILE = "finishing.json"


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "message", "remedy"),
    [
        (UserError("no room", where="/a", remedy="make some"), "/a: no room", "make some"),
        (UserError("no room"), "no room", ""),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", NO_SPACE),
        (MemoryError("  "), "MemoryError: ", OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA"), "OutOfMemoryError: CUDA", OUT_OF_MEMORY),
        (ZeroDivisionError("x"), "ZeroDivisionError: x", ""),
    ],
)
def test_what_went_wrong_is_noted_and_raised(tmp_path: Path, error: Exception, message: str, remedy: str) -> None:
    with pytest.raises(type(error)), finishing(tmp_path, Part.EXPORT):
        raise error
    found = json.loads((tmp_path / FILE).read_text())["export"]
    assert (found["ok"], found["message"], found["remedy"]) == (False, message, remedy)


def test_each_part_has_its_own_note_and_the_last_try_counts(tmp_path: Path) -> None:
    parts = list(Part)
    note(tmp_path, Part.EXPORT, ValueError("x"))
    for part in parts:
        with finishing(tmp_path, part):
            pass
    found = json.loads((tmp_path / FILE).read_text())
    assert {name: entry["ok"] for name, entry in found.items()} == dict.fromkeys(map(str, parts), True)


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    note(tmp_path, Part.EXPORT)
    assert json.loads((tmp_path / FILE).read_text())["export"]["ok"]


def test_a_note_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    with finishing(tmp_path / "absent", Part.EXPORT):
        pass
