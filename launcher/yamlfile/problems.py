"""Problems of a job file, each with its line, and the errors that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.errors import JobError

KeyPath = tuple[str | int, ...]
MAX_VALUE_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of a job file.

    Attributes:
        line: Line in the job file, counted from 1.
        key: The setting, dotted; empty for a problem of the whole file.
        message: What is wrong.
        got: The value in the file, as YAML; empty if there is none to show.
        remedy: What to do about it; may be empty.
    """

    line: int
    message: str
    key: str = ""
    got: str = ""
    remedy: str = ""

    def text(self, file: str) -> str:
        """Return the problem as one line of text."""
        key = f" {self.key}:" if self.key else ""
        got = f" (got {self.got})" if self.got else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{file}:{self.line}:{key} {self.message}{got}{remedy}"


class JobFileError(JobError):
    """A job file has problems; the error holds all of them, ordered by line."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.key))
        super().__init__("\n".join(problem.text(file) for problem in self.problems))

    def shown(self) -> str:
        """Return one line for each problem, all of the same form."""
        lines = [f"error: {problem.text(self.file)}" for problem in self.problems]
        return "\n".join([*lines, self.remedy] if self.remedy else lines)

    def facts(self) -> dict[str, Any]:
        """Return the problems for the JSON output, each with its file and line."""
        return {"problems": [{"file": self.file, **asdict(problem)} for problem in self.problems]}


class SettingError(JobError):
    """A valid setting cannot be carried out; raised while planning."""

    def __init__(self, setting: str, message: str, *, got: object = None, remedy: str = "") -> None:
        super().__init__(f"{setting}: {message}", remedy)
        self.setting = setting
        self.problem = message
        self.got = "" if got is None else shown(got)


def dotted(path: KeyPath) -> str:
    """Return a key path as text: `data.train[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """Return a value as YAML, shortened to `MAX_VALUE_CHARACTERS`."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    text = text or (f"'{value}'" if isinstance(value, str) else str(value))
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."
