"""Documents of a run directory as plain JSON, for tests that look at what lies on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rundir import attempts, progress
from rundir.attempts import AttemptRecord
from rundir.progress import Progress


def read_attempts(run_dir: Path) -> list[dict[str, Any]]:
    """The records of attempts.jsonl."""
    return [record.to_json() for record in attempts.read_attempts(run_dir)]


def put_attempt(run_dir: Path, record: dict[str, Any]) -> None:
    """Writes a record."""
    attempts.put_attempt(run_dir, AttemptRecord.from_json(record))


def read_progress(run_dir: Path) -> dict[str, Any]:
    """progress.json with failure.json, empty when there is none."""
    return progress.read_progress(run_dir).to_json()


def typed(records: list[dict[str, Any]]) -> list[AttemptRecord]:
    """Records as the product reads them."""
    return [AttemptRecord.from_json(record) for record in records]


def typed_progress(found: dict[str, Any] | None) -> Progress:
    """progress.json as the product reads it."""
    return Progress.from_json(found)
