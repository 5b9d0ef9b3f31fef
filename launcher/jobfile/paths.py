"""Make the paths in a job file absolute, and check the files as far as a login node can.

Relative paths refer to the job file's folder, so that a job file works from any working directory. A name such as
`org/name` that does not exist on disk stays as it is: it names a model or dataset on the hub.
"""

from __future__ import annotations

import copy
import difflib
import glob
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.home import expanded
from launcher.sizing.shape import shape_of_folder
from launcher.sizing.shape.counted import require_code
from launcher.yamlfile.document import Document
from launcher.yamlfile.problems import KeyPath, Problem, dotted, shown
from trainer.data.prompts import read_prompts
from trainer.errors import UserError

HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
DATA_SUFFIXES = (
    ".jsonl",
    ".json",
    ".parquet",
    ".arrow",
    ".csv",
    ".txt",
    ".gz",
    ".zst",
    ".tsv",
    ".yaml",
    ".yml",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def resolve_paths(
    document: Document, base: Path | None, is_mounted: Callable[[str], bool]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the document's values with every local path made absolute, and the problems of the paths.

    A path that does not exist on this machine is accepted if it is absolute and the run has it mounted.
    """
    data = copy.deepcopy(document.data)
    base = base or Path(document.file).resolve().parent
    problems: list[Problem] = []
    for path in path_settings(data):
        problems += _resolve_one(data, path, base, document, is_mounted)
    return data, problems + _template_problems(document)


def path_settings(data: dict[str, Any]) -> Iterator[KeyPath]:
    """Yield the key paths of all settings that name files and have a value."""
    train = _get(data, ("data", "train"))
    entries = len(train) if isinstance(train, list) else 0
    candidates: list[KeyPath] = [
        ("model", "path"),
        *(("data", "train", index, "path") for index in range(entries)),
    ]
    candidates += [("data", "eval", "path"), ("evaluation", "generate")]
    if str(_get(data, ("data", "chat_template"))).endswith(".jinja"):
        candidates.append(("data", "chat_template"))
    for path in candidates:
        if isinstance(_get(data, path), str) and _get(data, path):
            yield path


def _resolve_one(
    data: dict[str, Any],
    path: KeyPath,
    base: Path,
    document: Document,
    is_mounted: Callable[[str], bool],
) -> Iterator[Problem]:
    """Make one path in `data` absolute, in place, and yield its problems."""
    value = _get(data, path)
    found = _find(value, base)
    line, key = document.line(path), dotted(path)
    if found is not None:
        _get(data, path[:-1])[path[-1]] = found
        reasons = [_model_folder_error(Path(found))] if path == ("model", "path") else []
        yield from (Problem(line=line, key=key, message=reason) for reason in reasons if reason)
        yield from _prompts_problems(Path(found), line, key) if path == ("evaluation", "generate") else []
    elif not _may_be_on_hub(path, value, base) and not (value.startswith("/") and is_mounted(value)):
        hint = _hint(value, base)
        yield Problem(line=line, key=key, message="no such file or folder", got=shown(value), remedy=hint)


def _prompts_problems(file: Path, line: int, key: str) -> list[Problem]:
    """Return the problem of a file of prompts. A run reads it only at its end, when an error costs most."""
    try:
        read_prompts(file)
    except UserError as error:
        return [Problem(line=line, key=key, message=f"{error.where}: {error.message}", remedy=f"Write {error.remedy}.")]
    return []


def _get(data: Any, path: KeyPath) -> Any:
    """Return the value at a key path, or None if there is none."""
    for part in path:
        inside = isinstance(data, dict) and part in data
        if not inside and not (isinstance(data, list) and isinstance(part, int)):
            return None
        data = data[part]
    return data


def _find(value: str, base: Path) -> str | None:
    """Return the absolute path or glob, or None if nothing matches."""
    candidate = base / expanded(value)
    if _is_true(candidate.exists):
        return str(candidate.resolve())
    if any(char in value for char in "*?[") and glob.glob(str(candidate), recursive=True):  # noqa: PTH207
        return str(candidate)
    return None


def _is_true(check: Callable[[], bool]) -> bool:
    """Return the result of a check of a path; False without permission, or for a path that cannot exist."""
    try:
        return check()
    except OSError:
        return False


def _may_be_on_hub(path: KeyPath, value: str, base: Path) -> bool:
    """Return whether a value looks like `org/name` and `org` is no local folder."""
    if path[-1] != "path" or not HUB_NAME.match(value) or value.lower().endswith(DATA_SUFFIXES):
        return False
    return not (base / value.split("/")[0]).exists()


def _hint(value: str, base: Path) -> str:
    """Return where the path was looked for, with the most similar name there."""
    wanted = base / expanded(value)
    folder = wanted.parent
    while not _is_true(folder.is_dir) and folder != folder.parent:
        folder = folder.parent
    missing = wanted.relative_to(folder).parts[0]
    if any(char in value for char in "*?["):
        return f"The pattern matches nothing in {folder}."
    try:
        near = difflib.get_close_matches(missing, [entry.name for entry in folder.iterdir()], n=1)
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}."
    return f"Nearest in {folder}: {near[0]}." if near else f"Looked in {folder}."


def _model_folder_error(folder: Path) -> str:
    """Return what is wrong with a model folder; empty if nothing is."""
    if folder.is_file():
        return f"is a file; name the folder that holds it ({folder.parent})"
    if not (folder / "config.json").is_file():
        return f"{folder} is no model folder: it holds no config.json"
    try:
        shape_of_folder(folder, "its config.json")
        require_code(folder, "its config.json")
    except JobError as error:
        return str(error).replace("\n", ". ").rstrip(".")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"{folder} holds no tokenizer (looked for {', '.join(TOKENIZER_FILES)})"
    return ""


def _template_problems(document: Document) -> list[Problem]:
    path: KeyPath = ("data", "chat_template")
    value, known = _get(document.data, path), template_names()
    if not isinstance(value, str) or value.endswith(".jinja") or not known or value in known:
        return []
    near = difflib.get_close_matches(value, known, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}; or name a .jinja file."
    return [
        Problem(
            line=document.line(path),
            key=dotted(path),
            message="unknown chat template",
            got=shown(value),
            remedy=remedy,
        )
    ]


def template_names() -> list[str]:
    """Return the names of the trainer's built-in chat templates."""
    spec = importlib.util.find_spec("trainer")
    if spec is None or spec.origin is None:
        return []
    return sorted(
        path.stem for path in (Path(spec.origin).parent / "data" / "chat_template" / "templates").glob("*.jinja")
    )
