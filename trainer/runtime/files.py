"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json_atomic(file: Path, value: Any) -> None:
    """Replace `file` by the JSON of `value`; a reader sees the old or the new one."""
    staging = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with staging.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(file)
    except OSError:
        staging.unlink(missing_ok=True)
        raise


def read_json(file: Path) -> Any:
    """The JSON in `file`, or None when it is absent."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
