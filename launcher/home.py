"""This user's own folders, also where a home is not known, as for a number without a name in a container."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NOWHERE = Path("/nonexistent")
"""The home of who has none, as Debian writes it: nothing is found there, and nothing can be kept."""


def home() -> Path:
    """The user's home."""
    try:
        return Path.home()
    except RuntimeError:
        return NOWHERE


def user_folder(variable: str, usual: str) -> Path:
    """Where this user's files of one kind lie.

    Args:
        variable: What names another folder, such as `XDG_STATE_HOME`.
        usual: The folder below the home otherwise.
    """
    return Path(os.environ.get(variable) or home() / usual) / "tuneyard"


def expanded(path: str) -> Path:
    """A path with `~` written out; one of a user that is not known here stays as it is, and is not found."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
