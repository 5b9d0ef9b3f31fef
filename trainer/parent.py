"""A process that works for another one ends with it, even when that is killed and can say nothing any more."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "TUNEYARD_PARENT"
"""Process id of who started this one and waits for it; nobody says it where the agent sees to it."""
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Has the kernel end this process when its parent ends; leaves at once where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def end_with_whoever_waits() -> None:
    """The same for whom the environment names; those that this process starts have another parent."""
    if (parent := os.environ.pop(PARENT, "")).isdigit():
        end_with_parent(int(parent))
