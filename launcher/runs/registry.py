"""Runs that this user has submitted, wherever they lie: so that a name or `last` finds one from any folder.

One link for each run in the user's state folder. Links to runs that are gone are left out, and removed in passing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from launcher.home import user_folder
from rundir.paths import PLAN


def folder() -> Path:
    """Where the links are."""
    return user_folder("XDG_STATE_HOME", ".local/state") / "runs"


def register(run_dir: Path) -> None:
    """Remembers a run. A state folder that cannot be written to does no harm."""
    link = folder() / run_dir.name
    with contextlib.suppress(OSError):
        if link.is_symlink() and link.resolve() != run_dir.resolve():
            link.unlink()
        if not link.is_symlink():
            folder().mkdir(parents=True, exist_ok=True)
            link.symlink_to(run_dir.absolute())


def registered() -> list[Path]:
    """The run directories that are still there, in no order."""
    found = []
    with contextlib.suppress(OSError):
        for link in folder().iterdir():
            there = link.readlink() if link.is_symlink() else link
            if (there / PLAN).is_file():
                found.append(there)
            elif there.parent.is_dir():  # storage that is not mounted now may come back
                link.unlink()
    return found
