"""Whether the folder that a planned run needs is there, before anything is queued."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.doctor.machine import write_problem
from launcher.errors import MachineError
from rundir.quantities import GIB, gib


def require_folder(launch: Mapping[str, Any], root: Path) -> None:
    """Refuses a folder for runs that cannot be written to, or has no room for the run's checkpoints.

    Args:
        launch: plan.json's.
        root: The folder of run directories, as this machine sees it.

    Raises:
        MachineError: with what it lacks.
    """
    there = root.absolute()
    while not there.exists():
        there = there.parent
    if problem := write_problem(there):
        raise MachineError(f"{root}: cannot be written: {problem}", _other_folder(launch))
    site, health = launch.get("kubernetes"), launch.get("health") or {}
    if "disk" in (health.get("skip") or ()) or (site is not None and not (site.get("runs") or {}).get("local")):
        return  # the run's own folder is not this one
    free_bytes, needed_bytes = shutil.disk_usage(there).free, health.get("free_disk_bytes") or 0
    if free_bytes < needed_bytes:
        raise MachineError(
            f"{root}: {gib(free_bytes)} are free, and the run's checkpoints take {needed_bytes / GIB:.1f}",
            f"Free space, or lower checkpoint.keep. {_other_folder(launch)}",
        )


def _other_folder(launch: Mapping[str, Any]) -> str:
    profile = launch.get("profile")
    return "Name another folder with --runs DIR" + (f", or correct run_root in profile {profile}." if profile else ".")
