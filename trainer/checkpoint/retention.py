"""Which checkpoints may go: never the newest `keep`, never a permanent one. And how one goes."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint.fault_points import fault_point
from trainer.checkpoint.format.manifest import published

PERMANENT_MARK = "permanent"
"""An empty file of this name in a checkpoint's folder keeps it for good."""
DAMAGED = ".damaged-"
"""How the names of checkpoints begin that were set aside; they end with the time in nanoseconds."""


def is_permanent(folder: Path) -> bool:
    return (folder / PERMANENT_MARK).exists()


def to_prune(checkpoints: Path, keep: int) -> list[Path]:
    """Published checkpoints that retention lets go, newest first. Names and marks decide, never times of files.

    Args:
        keep: how many of the newest that are not permanent stay; at least one does.
    """
    prunable = [folder for _, folder in published(checkpoints) if not is_permanent(folder)]
    return prunable[max(1, keep) :]


def outdated_damaged(checkpoints: Path) -> list[Path]:
    """Checkpoints that were set aside, all but the one set aside last: evidence must not fill the storage."""
    found = [entry for entry in checkpoints.glob(f"{DAMAGED}*") if entry.is_dir()]
    return sorted(found, key=lambda entry: entry.name.rpartition("-")[2])[:-1]


def remove(folder: Path) -> None:
    """Delete a checkpoint so that at no moment a half-deleted one looks like one.

    Raises:
        OSError: the storage refused; what is left has a trash name.
    """
    trash = folder.with_name(f".trash-{folder.name}")
    sweep(trash)
    folder.rename(trash)
    fault_point("trashed")
    sweep(trash)


def sweep(trash: Path) -> None:
    """Delete a folder that no longer counts, if it is there. A link is taken away, not followed."""
    if trash.is_symlink():
        trash.unlink()
        return
    if not trash.is_dir():
        return
    for file in sorted(trash.iterdir()):
        sweep(file) if file.is_dir() else file.unlink()
        fault_point("trash half")
    trash.rmdir()
