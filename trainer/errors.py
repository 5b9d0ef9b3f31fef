"""The one exception that means: the user's job, data or storage is at fault, not the program."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from rundir.errors import TuneyardError


class UserError(TuneyardError):
    """Something the user can mend: says what, where, and what to do; as text with all three."""

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy, where)

    def __str__(self) -> str:
        head = super().__str__()
        return f"{head}\n  what to do: {self.remedy}" if self.remedy else head


class RowError(ValueError):
    """A row that cannot be understood; the caller adds file and row number."""


def run_reporting_user_errors(main: Callable[[], int]) -> int:
    """Exit code of `main`, with user errors printed as one message and never as a traceback."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
