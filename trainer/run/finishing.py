"""What comes after training, part by part: `finishing.json` says of each whether it is done, or why not.

The model is kept whatever becomes of these parts, and each can be tried again alone. The node agent writes the same
file for a process that could not say anything any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rundir.after_training import Part, put_part_end
from rundir.errors import RunDirError
from trainer.errors import UserError

OUT_OF_MEMORY = "another process may hold memory on this machine; it needs the whole model once"
NO_SPACE = "free space on that disk, or fix who may write there"


@contextlib.contextmanager
def finishing(run_dir: Path, part: Part) -> Iterator[None]:
    """Note how the block ends; errors pass through."""
    try:
        yield
    except BaseException as error:
        note(run_dir, part, error)
        raise
    note(run_dir, part)


def note(run_dir: Path, part: Part, error: BaseException | None = None) -> None:
    """Write down that a part is done, or what went wrong. A full disk loses the note, nothing else."""
    told = {} if error is None else {"message": _message(error), "remedy": _remedy(error)}
    with contextlib.suppress(RunDirError):
        put_part_end(run_dir, part, ok=error is None, **told)


def _message(error: BaseException) -> str:
    if isinstance(error, UserError):
        return f"{error.where}: {error.message}" if error.where else error.message
    return f"{type(error).__name__}: {str(error).strip()}"


def _remedy(error: BaseException) -> str:
    if isinstance(error, UserError):
        return error.remedy
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    return NO_SPACE if isinstance(error, OSError) else ""
