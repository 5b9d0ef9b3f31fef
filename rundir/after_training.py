"""finishing.json: how each part after the last step ended. None of it takes back that the run is trained and saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from rundir.document import Document, as_flag, as_number, as_text, field
from rundir.files import read_json_or_empty, write_json
from rundir.paths import RunPaths


class Part(StrEnum):
    """What comes after training, in its order."""

    HELD_OUT = "held_out"
    EXPORT = "export"
    EVALUATE = "evaluate"


class PartEnd(Document):
    """How one part ended; empty when it has not, yet."""

    ok: bool = field(as_flag, default=False)
    message: str = field(as_text, default="")
    remedy: str = field(as_text, default="")
    time: float = field(as_number, default=0.0)


def read_part_ends(run_dir: Path) -> Mapping[Part, PartEnd]:
    """The parts of which something is known."""
    found = read_json_or_empty(RunPaths(run_dir).after_training)
    return {part: PartEnd.from_json(found[part]) for part in Part if isinstance(found.get(part), dict)}


def put_part_end(run_dir: Path, part: Part, *, ok: bool, message: str = "", remedy: str = "") -> None:
    """Notes that a part ended now. A damaged file is replaced; RunDirError when it cannot be written."""
    path = RunPaths(run_dir).after_training
    end = PartEnd(ok=ok, message=message, remedy=remedy, time=time.time())
    write_json(path, {**read_json_or_empty(path), part.value: end.to_json()})
