"""Turn pydantic's errors into messages that name the setting, its allowed values and the nearest known name."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from launcher.jobfile.foreign import find_foreign
from launcher.jobfile.schema import NAME_PATTERN, JobFile
from launcher.yamlfile.document import Document
from launcher.yamlfile.problems import KeyPath, Problem, dotted, shown
from rundir.quantities import WALLTIME_PATTERN

PATTERNS = {
    NAME_PATTERN: "lower-case letters, digits and dashes, with a letter or digit at both ends",
    WALLTIME_PATTERN: "a time such as 90m, 4h or 2d",
}

GUESS = "Did you mean"

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping",
    "finite": "a finite number",
    "model": "a section of `setting: value` lines",
}

BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}


def problems_from(errors: Iterable[ErrorDetails], document: Document) -> list[Problem]:
    """Return one problem for each setting that pydantic refused; the branches of a union share one."""
    grouped: dict[KeyPath, list[ErrorDetails]] = defaultdict(list)
    for error in errors:
        grouped[_real_path(error, document.data)].append(error)
    unknown = [path for path, group in grouped.items() if group[0]["type"] == "extra_forbidden"]
    inner = [found for path in unknown for found in _problems_inside(path, document)]
    return [_problem(path, group, document) for path, group in grouped.items()] + inner


def _problems_inside(path: KeyPath, document: Document) -> list[Problem]:
    """Return a problem for every key inside an unknown section, which says where that key belongs."""
    value: Any = document.data
    for part in path:
        value = value[part]
    if not isinstance(value, dict):
        return []
    # if the section's name is only misspelled, the keys of the section that is meant are right
    _, is_guess, guess = _nearest(path).partition(GUESS)
    known = _sections().get(guess.strip(" ?"), ()) if is_guess else ()
    keys = [(*path, str(name)) for name in value if name not in known]
    found = [
        Problem(line=document.line(key), key=dotted(key), message="unknown setting", remedy=_nearest(key))
        for key in keys
    ]
    return found + [problem for key in keys for problem in _problems_inside(key, document)]


def _real_path(error: ErrorDetails, data: Any) -> KeyPath:
    """Return the error's key path without the parts that only name a branch of a union."""
    path: list[str | int] = []
    for part in error["loc"]:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]
        elif error["type"] != "missing":
            continue
        path.append(part)
    return tuple(path)


def _problem(path: KeyPath, group: list[ErrorDetails], document: Document) -> Problem:
    """Return the problem that all errors of one setting describe together."""
    kind, line, key = group[0]["type"], document.line(path), dotted(path)
    if kind == "extra_forbidden":
        return Problem(line=line, key=key, message="unknown setting", remedy=_nearest(path))
    if kind == "missing":
        return Problem(line=line, key=key, message="is missing", remedy=_add(path))
    if kind == "value_error":
        return Problem(line=line, key=key, message=group[0]["msg"].removeprefix("Value error, "))
    expected = " or ".join(dict.fromkeys(_expected(error) for error in group))
    got = group[0]["input"]
    return Problem(line=line, key=key, message=f"must be {expected}", got=shown(got), remedy=_remedy(group, got))


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in BOUNDS:
        name, relation = BOUNDS[kind]
        return f"a number {relation} {context[name]:g}"
    if kind == "literal_error":
        return _choices(error)
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text like {context['pattern']}")
    if kind in ("string_too_long", "string_too_short", "too_short"):
        return _length(kind, context)
    return KINDS.get(kind.split("_")[0], error["msg"])


def _choices(error: ErrorDetails) -> str:
    choices = error.get("ctx", {})["expected"].replace("'", "").replace(" or ", ", ").split(", ")
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _length(kind: str, context: dict[str, Any]) -> str:
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters long"
    return "text that is not empty" if kind == "string_too_short" else "a list with at least one entry"


def _remedy(group: list[ErrorDetails], got: Any) -> str:
    if isinstance(got, float) and got.is_integer() and any(e["type"].startswith("int") for e in group):
        return f"Write {int(got)}."
    choices = [
        choice
        for error in group
        if error["type"] == "literal_error"
        for choice in _choices(error).removeprefix("one of ").split(", ")
    ]
    near = difflib.get_close_matches(str(got), choices, n=1)
    return f"Did you mean {near[0]}?" if near and isinstance(got, str) else _unquote(group, got)


def _unquote(group: list[ErrorDetails], got: Any) -> str:
    wants_number = any(e["type"].split("_")[0] in ("int", "float") for e in group)
    plain = isinstance(got, str) and got.replace(".", "", 1).isdigit()
    return "Write it without quotes." if wants_number and plain else ""


def _add(path: KeyPath) -> str:
    examples = {
        ("name",): "Add `name: my-run`.",
        ("model",): "Add `model: {path: FOLDER}`.",
        ("model", "path"): "Add `path: FOLDER`.",
        ("data",): "Add `data: {train: [{path: FILE.jsonl}]}`.",
        ("data", "train"): "Add `train: [{path: FILE.jsonl}]`.",
    }
    return examples.get(tuple(p for p in path if isinstance(p, str)), f"Add `{path[-1]}`.")


def _nearest(path: KeyPath) -> str:
    """Return a hint for an unknown key: its section, the name of another tool's setting here, or a similar key."""
    name, sections = str(path[-1]), _sections()
    here = sections.get(".".join(part for part in path[:-1] if isinstance(part, str)), ())
    owners = [section for section, keys in sections.items() if name in keys]
    if owners:
        return f"It is {' or '.join(f'{owner}.{name}'.lstrip('.') for owner in owners)}."
    if found := find_foreign(name):
        return found.hint()
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.75)
    return f"{GUESS} {near[0]}?" if near else _nearest_anywhere(name, here, sections)


def _nearest_anywhere(name: str, here: Iterable[str], sections: dict[str, tuple[str, ...]]) -> str:
    """Return a hint with a less similar key of the same section or a similar one of another, else the known keys."""
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    everywhere = {key: section for section, keys in sections.items() for key in keys}
    far = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.7)
    if far:
        return f"Did you mean {everywhere[far[0]]}.{far[0]}?".replace("mean .", "mean ")
    return f"Known here: {', '.join(here)}."


def _sections(model: type[BaseModel] = JobFile, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Return the settings of every section by its dotted name; the top level has the empty name."""
    found = {prefix: tuple(model.model_fields)}
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            found |= _sections(inner, f"{prefix}.{name}".lstrip("."))
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
