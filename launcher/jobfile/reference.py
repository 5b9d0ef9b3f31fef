"""Write the settings of the job file as Markdown tables, generated from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from launcher.jobfile.schema import JobFile

HEADER = "| setting | values | default | what |\n|---|---|---|---|\n"
TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null"}
SIGNS = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}


def settings_markdown() -> str:
    """Return a table for each section, in the order of the job file."""
    tables = [_table("The job file", JobFile, "")]
    return "\n".join([*tables, *_section_tables(JobFile, "")])


def _section_tables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for inner, is_list in _sections_in(field.annotation):
            path = f"{prefix}{name}" + ("[]" if is_list else "")
            yield _table(f"`{path}`", inner, " ".join((inner.__doc__ or "").split()))
            yield from _section_tables(inner, f"{path}.")


def _table(title: str, model: type[BaseModel], text: str) -> str:
    rows = "".join(_row(name, field) for name, field in model.model_fields.items())
    intro = f"{text}\n\n" if text else ""
    return f"## {title}\n\n{intro}{HEADER}{rows}"


def _row(name: str, field: FieldInfo) -> str:
    values = _describe(field.annotation, list(field.metadata)).replace("|", "\\|")
    return f"| `{name}` | {values} | {_default(field)} | {_what(field)} |\n"


def _what(field: FieldInfo) -> str:
    sections = _sections_in(field.annotation)
    text = field.description or (" ".join((sections[0][0].__doc__ or "").split()) if sections else "")
    return text.replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or isinstance(field.default, BaseModel):
        return ""
    if field.default is PydanticUndefined:
        return "**needed**"
    return "none" if field.default is None else f"`{json.dumps(field.default).strip(chr(34))}`"


def _describe(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _describe(arguments[0], [*metadata, *annotation.__metadata__])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_describe(arguments[0], [])}"
    if origin is dict:
        return "mapping"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return ", ".join(_describe(branch, metadata) for branch in arguments if branch is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return TYPE_NAMES[annotation] + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    parts = []
    for item in _flattened(metadata):
        for kind, (sign, attribute) in SIGNS.items():
            if isinstance(item, kind):
                parts.append(f"{sign} {getattr(item, attribute)}")
    return " " + ", ".join(parts) if parts else ""


def _flattened(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flattened(list(item.metadata))
        elif not isinstance(item, StringConstraints):
            yield item


def _sections_in(annotation: Any, is_list: bool = False) -> list[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, is_list)]
    inner_list = is_list or get_origin(annotation) is list
    return [found for inner in get_args(annotation) for found in _sections_in(inner, inner_list)]
