"""Ends a helper process with the process that started it, even when that one is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "TUNEYARD_PARENT"
"""Environment variable: id of the process that started this one and waits for it; unset under the node agent."""
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Has the kernel end this process when its parent ends; leaves at once where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def end_with_whoever_waits() -> None:
    """The same for the parent that the environment names. The variable is removed: it is not our children's parent."""
    if (parent := os.environ.pop(PARENT, "")).isdigit():
        end_with_parent(int(parent))
