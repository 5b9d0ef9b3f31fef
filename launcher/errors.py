"""The few kinds of failure that a user can meet, each with its exit code.

Everything raised on purpose derives from `TuneyardError`; the command line prints its message without a
traceback and leaves with its `exit_code`. Anything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

from typing import Any

EXIT_OK = 0
EXIT_USER = 2
EXIT_ENVIRONMENT = 3
EXIT_CLUSTER = 4
EXIT_RUN_FAILED = 5
EXIT_DOES_NOT_FIT = 6
"""What `estimate` was asked about does not fit."""
EXIT_SAVED = 75
"""The run stopped before its end, saved, and can be resumed; the trainer's own code for it."""


class TuneyardError(Exception):
    """A failure with a message for people and a remedy.

    Args:
        message: What is wrong, where, and with which value.
        remedy: What to do about it; may be empty when the message says it.
    """

    exit_code = EXIT_USER

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message

    def shown(self) -> str:
        """What a terminal gets: `error:` before what is wrong, the remedy below it."""
        return f"error: {self}"

    def facts(self) -> dict[str, Any]:
        """What a program is told beside message, remedy and exit code."""
        return {}


class JobError(TuneyardError):
    """The job file, the data or the arguments are wrong: the user changes something."""

    exit_code = EXIT_USER


class MachineError(TuneyardError):
    """This machine lacks something: a package, a GPU, a writable folder."""

    exit_code = EXIT_ENVIRONMENT


class SchedulerError(TuneyardError):
    """The scheduler or the cluster refused or did not answer."""

    exit_code = EXIT_CLUSTER


class RunFailedError(TuneyardError):
    """The run itself ended badly."""

    exit_code = EXIT_RUN_FAILED
