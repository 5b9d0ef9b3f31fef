"""Parse YAML into plain values, with the line of every key.

Uses ruamel's round-trip loader for YAML 1.2: it builds no Python objects from tags, keeps line numbers, and refuses
duplicate keys. Its syntax errors are reworded for people who edit job files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarfloat import ScalarFloat
from ruamel.yaml.scalarint import ScalarInt

from launcher.yamlfile.problems import JobFileError, KeyPath, Problem, dotted, shown

MAX_VALUES = 20_000
"""More values than any job file has; a limit against aliases that expand exponentially."""

LARGEST_NUMBER = 10**15
"""Larger numbers are typing errors, and floats cannot represent all of them exactly."""

FIRST_LINES = "Start one with `tuneyard init`."

REWORDED = {
    "mapping values are not allowed here": (
        "a colon where no setting can begin",
        "Put a value that contains a colon in quotes, and line up settings of one section.",
    ),
    "could not find expected ':'": ("a line without a colon", "Write `setting: value`."),
    "expected <block end>": (
        "indentation does not line up",
        "Give all settings of one section the same indentation.",
    ),
    "found another document": ("a second YAML document begins here", "Keep one job in one file."),
    "expected ',' or '}'": (
        "a `{` that is never closed properly",
        "Separate settings with commas and close with `}`.",
    ),
    "expected ',' or ']'": (
        "a `[` that is never closed properly",
        "Separate values with commas and close with `]`.",
    ),
    "found unexpected end of stream": ("a quote that is never closed", "Close the quote."),
    "found undefined alias": (
        "an alias (`*name`) without its anchor",
        "Put values that start with * in quotes.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed job file."""

    file: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(repr=False)

    def line(self, path: KeyPath) -> int:
        """Return the line of a setting, or of the innermost section around it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(path: Path) -> Document:
    """Read and parse a job file.

    Raises:
        JobFileError: the file cannot be read, or is not a YAML mapping; the message has file and line.
    """
    return parse_document(_read_text(path), str(path))


def parse_document(text: str, file: str) -> Document:
    """Parse a text; `file` is its name in messages.

    Raises:
        JobFileError: the text is not a YAML mapping.
    """
    loaded = _load(text, file)
    if loaded is None:
        raise JobFileError(file, [Problem(line=1, message="the file is empty", remedy=FIRST_LINES)])
    if not isinstance(loaded, CommentedMap):
        problem = Problem(line=1, message="a job file is a mapping of settings", got=shown(loaded), remedy=FIRST_LINES)
        raise JobFileError(file, [problem])
    converter = _Converter(file)
    data = converter.plain(loaded, ())
    return Document(file=file, data=data, lines=converter.lines)


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _unreadable(path, "no such file", _list_neighbours(path)) from None
    except IsADirectoryError:
        raise _unreadable(path, "is a folder, not a job file", "Name the YAML file inside it.") from None
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}", "") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise JobFileError(str(path), [Problem(line=line, message=message, remedy="Save as UTF-8.")]) from None


def _list_neighbours(path: Path) -> str:
    """Return a hint with the YAML files in the folder of a missing file."""
    folder = path.parent
    found = sorted(p.name for p in folder.glob("*.y*ml"))[:5] if folder.is_dir() else []
    return f"In {folder} there is: {', '.join(found)}." if found else FIRST_LINES


def _unreadable(path: Path, message: str, remedy: str) -> JobFileError:
    return JobFileError(str(path), [Problem(line=1, message=message, remedy=remedy)])


def _load(text: str, file: str) -> Any:
    yaml = YAML(typ="rt")
    try:
        return yaml.load(text)
    except DuplicateKeyError as error:
        raise JobFileError(file, [_duplicate(error)]) from None
    except MarkedYAMLError as error:
        raise JobFileError(file, [_syntax(error, text)]) from None
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        problem = Problem(line=line, message=f"a control character (0x{error.character:02x})", remedy="Delete it.")
        raise JobFileError(file, [problem]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobFileError(file, [Problem(line=1, message=f"not valid YAML: {first}")]) from None


def _duplicate(error: DuplicateKeyError) -> Problem:
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    key = str(error.problem or "").split('"')
    name = key[1] if len(key) > 1 else "key"
    return Problem(line=line, key=name, message="given twice in the same section", remedy="Keep one of them.")


def _syntax(error: MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = str(error.problem or "not valid YAML")
    if "'\\t'" in problem or _tab_indents(text, line):
        return Problem(line=line, message="a tab; YAML is indented with spaces", remedy="Replace it by spaces.")
    for known, (message, remedy) in REWORDED.items():
        if known in problem:
            return Problem(line=line, message=message, remedy=remedy)
    return Problem(line=line, message=f"not valid YAML: {problem}")


def _tab_indents(text: str, line: int) -> bool:
    lines = text.splitlines()
    found = lines[line - 1] if line <= len(lines) else ""
    return "\t" in found[: len(found) - len(found.lstrip())]


class _Converter:
    """Converts ruamel's values to plain ones and records the line of each."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {(): 1}
        self.num_values = 0

    def plain(self, value: Any, path: KeyPath) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES or len(path) > 20:
            raise self._error(path, "nests too deep, or repeats itself through aliases", "Write the values out.")
        if isinstance(value, CommentedMap):
            return self._mapping(value, path)
        if isinstance(value, CommentedSeq):
            return self._sequence(value, path)
        if isinstance(value, TaggedScalar):
            raise self._error(path, f"has a YAML tag ({value.tag.value})", "Write the value without a tag.")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise self._error(path, "is larger than any setting may be", f"At most {LARGEST_NUMBER:,}.")
        return _scalar(value)

    def _mapping(self, value: CommentedMap, path: KeyPath) -> dict[str, Any]:
        plain = {}
        for key in value:
            inner = (*path, str(key))
            if value.lc.data and key in value.lc.data:
                self.lines[inner] = value.lc.data[key][0] + 1
            plain[str(key)] = self.plain(value[key], inner)
        return plain

    def _sequence(self, value: CommentedSeq, path: KeyPath) -> list[Any]:
        for index in range(len(value)):
            if value.lc.data and index in value.lc.data:
                self.lines[(*path, index)] = value.lc.data[index][0] + 1
        return [self.plain(item, (*path, index)) for index, item in enumerate(value)]

    def _error(self, path: KeyPath, message: str, remedy: str) -> JobFileError:
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        return JobFileError(self.file, [Problem(line=line, key=dotted(path), message=message, remedy=remedy)])


def _scalar(value: Any) -> Any:
    """Return the plain value of ruamel's subclasses of numbers, which also keep how a number was written."""
    if isinstance(value, ScalarBoolean):
        return bool(value)
    if isinstance(value, ScalarInt):
        return int(value)
    if isinstance(value, ScalarFloat):
        return float(value)
    return str(value) if isinstance(value, str) else value
