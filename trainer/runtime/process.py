"""How a process of the trainer starts: fast imports of torch and Transformers, its log, and with whom it ends."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PARENT = "TUNEYARD_PARENT"
"""Environment variable: id of the process that started this one and waits for it; unset under the node agent."""
_PR_SET_PDEATHSIG = 1


@contextmanager
def heavy_imports() -> Iterator[None]:
    """A block of imports without garbage collection, and what they made is never looked through again.

    Classes and code stay for good, yet every collection on the way would walk over all of them: a fifth of the time
    that torch, Transformers and PEFT take. Frozen, they cost the collections between training steps nothing either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def block_import(*packages: str) -> list[str]:
    """Let packages that this process has no use for look absent, to `import` and to `importlib.util.find_spec`.

    Transformers imports PEFT wherever it is installed, PEFT bitsandbytes, and that TorchInductor: a fifth of a rank's
    start. Gives those that were not there yet, and so are blocked now.
    """
    absent = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: Python's own way to forbid an import
    return absent


@contextmanager
def imports_blocked(*packages: str) -> Iterator[None]:
    """`block_import` for a block of imports. Without torch the tokenizer library takes half of the time.

    Afterwards it is there for whoever needs it: `datasets`, which reads tables, asks `"torch" in sys.modules`.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install what is blocked
    absent = block_import(*packages)
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


class _LogHandler(logging.StreamHandler[TextIO]):
    """Writes lines to standard output at once; a full disk under the log loses the line, not the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def log_to_stdout() -> None:
    """Have the trainer's log written to standard output, which the node agent keeps as the rank's log file."""
    logger = logging.getLogger("trainer")
    logger.handlers[:] = [_LogHandler(sys.stdout)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


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
