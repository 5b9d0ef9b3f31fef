"""Find the user's own folders, also for a user without a home: in a container, a user ID may have no name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NO_HOME = Path("/nonexistent")
"""Debian's home directory of users without one: no file exists below it, and none can be written."""


def home() -> Path:
    """Return the user's home directory, or `NO_HOME`."""
    try:
        return Path.home()
    except RuntimeError:
        return NO_HOME


def user_folder(variable: str, usual: str) -> Path:
    """Return Tuneyard's folder for one kind of the user's files.

    Args:
        variable: Environment variable that names the parent folder, such as `XDG_STATE_HOME`.
        usual: Parent folder below the home directory if the variable is not set.
    """
    return Path(os.environ.get(variable) or home() / usual) / "tuneyard"


def expanded(path: str) -> Path:
    """Expand `~` in a path; `~name` of an unknown user stays as it is."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
