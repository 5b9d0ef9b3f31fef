"""The root of all errors that tell a person what is wrong and what to do, and the exit codes of all programs."""

from __future__ import annotations

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
    """A failure that a person can act upon. Anything else that is raised is a bug, and keeps its traceback.

    Attributes:
        message: What is wrong, with the value.
        where: File and line, row or setting; empty when it has no place.
        remedy: What to do about it; empty when the message says it.
        exit_code: What a command that fails with it leaves with.
    """

    exit_code = EXIT_USER

    def __init__(self, message: str, remedy: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.remedy = message, where, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def shown(self) -> str:
        """What a terminal gets: `error:` before what is wrong, the remedy below it."""
        told = f"{self.where}: {self.message}" if self.where else self.message
        return f"error: {told}\n{self.remedy}" if self.remedy else f"error: {told}"

    def facts(self) -> dict[str, object]:
        """What a program is told beside message, remedy and exit code."""
        return {}


class RunDirError(TuneyardError):
    """A file of the run directory is missing, damaged, or cannot be written."""

    exit_code = EXIT_CLUSTER
