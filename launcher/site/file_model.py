"""The pydantic model of a site profile's file, made out of the dataclass in `cluster` that declares its settings.

`cluster` runs on nodes with nothing but the standard library, so a setting is declared there, once, and the model that
checks a file's types and names comes from the declaration.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, create_model

from cluster.submitting.site_profiles import Rule, section_in
from trainer.config import Section


def file_model(kind: type[Any]) -> type[Section]:
    """The model of the file, or of the section of it, that becomes a dataclass of this kind."""
    hints = get_type_hints(kind, include_extras=True)
    settings: dict[str, Any] = {}
    for one in fields(kind):
        if not one.metadata:
            continue  # `name`, which is the file's own
        expected, default = _file_type(hints[one.name]), one.default
        if one.default_factory is not MISSING:
            default = one.default_factory()
        if one.metadata["required"]:
            default = ...
        if is_dataclass(default) or (default == "" and hints[one.name] is not str):
            expected, default = expected | None, None  # in a file, what is left out is null and never an empty text
        settings[one.name] = (expected, Field(default, description=one.metadata["description"]))
    return create_model(f"{kind.__name__}File", __base__=Section, __doc__=kind.__doc__, **settings)


def sections(kind: type[Any], key: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The file's sections by the key that each stands under; the file itself under the empty one."""
    yield key, file_model(kind)
    for name, hint in get_type_hints(kind).items():
        if section := section_in(hint):
            yield from sections(section, name)


def _file_type(hint: Any) -> Any:
    """The type of a setting as pydantic checks it in a file."""
    if isinstance(hint, type) and is_dataclass(hint):
        return file_model(hint)
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [asdict(rule) for rule in inside[1:] if isinstance(rule, Rule)]
        return Annotated[(inside[0], *(Field(**rule) for rule in rules))]
    if origin is Literal:
        return Literal[tuple(choice for choice in inside if choice != "")]
    if origin is Sequence:
        return list[_file_type(inside[0])]  # type: ignore[misc]  # a type made at run time
    if origin is Mapping:
        return dict[inside[0], _file_type(inside[1])]  # type: ignore[misc, valid-type]
    if origin in (Union, types.UnionType):
        return Union[tuple(_file_type(part) for part in inside)]  # noqa: UP007  # of as many as there are
    return hint
