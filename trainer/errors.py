"""The one exception that means: the user's job, data or storage is at fault, not the program."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

EXIT_DONE = 0
EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend: says what, where, and what to do.

    Attributes:
        message: what is wrong, with the value.
        where: file and line, row, or setting; empty when it has no place.
        remedy: what to do about it.
    """

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.remedy = message, where, remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  what to do: {self.remedy}" if self.remedy else head


class RowError(ValueError):
    """A row that cannot be understood; the caller adds file and row number."""


def run_reporting_user_errors(main: Callable[[], int]) -> int:
    """Exit code of `main`, with user errors printed as one message and never as a traceback."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
