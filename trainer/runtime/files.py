"""JSON files of the trainer, which hold objects or lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rundir.files import atomic_write


def write_json_atomic(file: Path, value: Any) -> None:
    """Replace `file` by the JSON of `value`; a reader sees the old or the new one.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    atomic_write(file, json.dumps(value, indent=1))


def read_json(file: Path) -> Any:
    """The JSON in `file`, or None when it is absent."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
