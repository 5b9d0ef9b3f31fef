"""What lies in a run's `checkpoints/`: listed, verified, pruned. Needs no torch, and no run that is alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.checkpoint.format.manifest import (
    DamagedCheckpointError,
    Manifest,
    UnreadableStorageError,
    check_hashes,
    check_sizes,
    published,
    read_manifest,
)
from trainer.checkpoint.retention import DAMAGED, is_permanent, remove, to_prune
from trainer.errors import UserError

LEFT_OVERS = {".staging-": "staging", ".trash-": "trash", DAMAGED: "damaged"}


def inventory(checkpoints: Path, verify: bool = False) -> dict[str, Any]:
    """Everything in the folder that is or was a checkpoint, newest first.

    Args:
        verify: read every file and compare its hash; without it names, sizes and coverage are compared.

    Returns:
        {"checkpoints": [{"name", "step", "state", "permanent", "bytes", "attempt", "engine", "world_size", "saved",
        "problem", "verified"}], "resume_from": name of the newest without a problem, or None}.
    """
    entries = [_entry(folder, step, verify) for step, folder in published(checkpoints)]
    resume_from = next((entry["name"] for entry in entries if not entry["problem"]), None)
    return {"checkpoints": entries + _left_overs(checkpoints), "resume_from": resume_from}


def prune(checkpoints: Path, keep: int) -> list[str]:
    """Remove all but the newest `keep` checkpoints and the permanent ones. Returns the names of those removed.

    Raises:
        UserError: `keep` is below 1, or what would stay holds no whole checkpoint while something would go.
    """
    if keep < 1:
        raise UserError(f"--prune {keep} would leave nothing to resume from", remedy="keep at least 1")
    going = to_prune(checkpoints, keep)
    staying = [folder for _, folder in published(checkpoints) if folder not in going]
    if going and not any(_looked_at(folder, verify=True)[1] is None for folder in staying):
        raise UserError(
            f"none of the {len(staying)} checkpoints that would stay is whole; nothing was removed",
            where=str(checkpoints),
            remedy="keep more, and look at them: tuneyard checkpoints RUN --verify",
        )
    for folder in going:
        remove(folder)
    return [folder.name for folder in going]


def _entry(folder: Path, step: int, verify: bool) -> dict[str, Any]:
    manifest, problem = _looked_at(folder, verify)
    return {
        "name": folder.name,
        "step": step,
        "state": "published",
        "permanent": is_permanent(folder),
        "bytes": _size(folder),
        **{name: getattr(manifest, name, None) for name in ("attempt", "engine", "world_size", "saved")},
        "problem": problem,
        "verified": problem is None if verify else None,
    }


def _looked_at(folder: Path, verify: bool) -> tuple[Manifest | None, str | None]:
    """The manifest, as far as it can be read, and what is wrong."""
    manifest = None
    try:
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        if verify:
            check_hashes(folder, manifest)
    except (DamagedCheckpointError, UnreadableStorageError, OSError) as problem:
        return manifest, str(problem)
    return manifest, None


def _left_overs(checkpoints: Path) -> list[dict[str, Any]]:
    found = []
    for entry in sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []:
        state = next((state for prefix, state in LEFT_OVERS.items() if entry.name.startswith(prefix)), None)
        if state and entry.is_dir():
            found.append(
                {
                    **dict.fromkeys(("step", "attempt", "engine", "world_size", "saved", "problem", "verified")),
                    "name": entry.name,
                    "state": state,
                    "permanent": False,
                    "bytes": _size(entry),
                }
            )
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
