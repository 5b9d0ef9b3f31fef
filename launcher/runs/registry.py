"""Registry of the runs that this user has submitted, so that a name or `last` finds a run from any folder.

The user's state folder has one symbolic link for each run. Links to runs that were deleted are removed when listing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from launcher.home import user_folder
from rundir.paths import PLAN


def folder() -> Path:
    """Return the folder of the links."""
    return user_folder("XDG_STATE_HOME", ".local/state") / "runs"


def register(run_dir: Path) -> None:
    """Add a run to the registry. A state folder that cannot be written is ignored."""
    link = folder() / run_dir.name
    with contextlib.suppress(OSError):
        if link.is_symlink() and link.resolve() != run_dir.resolve():
            link.unlink()
        if not link.is_symlink():
            folder().mkdir(parents=True, exist_ok=True)
            link.symlink_to(run_dir.absolute())


def registered() -> list[Path]:
    """Return the registered run directories that still exist, in no order."""
    found = []
    with contextlib.suppress(OSError):
        for link in folder().iterdir():
            there = link.readlink() if link.is_symlink() else link
            if (there / PLAN).is_file():
                found.append(there)
            elif there.parent.is_dir():  # storage that is not mounted now may come back
                link.unlink()
    return found
