"""The base of every type over a JSON document: typed fields over the object as it was read.

A document keeps the object whole. A field that is missing, null or of another type reads as its default, so that a
file that was damaged, edited or written by another version never breaks a reader; and what a reader does not know is
still there when it writes the document again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Self, TypeVar, dataclass_transform

T = TypeVar("T")
JsonObject = dict[str, Any]
"""A JSON object as the `json` module reads it."""


class _Field:
    """Reads one key of a document."""

    def __init__(self, parse: Callable[[object], Any], default: Any, key: str, null: Any) -> None:
        self.parse, self.default, self.key, self.null = parse, default, key, null

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = self.key or name

    def __get__(self, document: Document | None, owner: type) -> Any:
        if document is None:
            return self
        if self.key not in document._object:
            return self.default
        value = document._object[self.key]
        if value is None:
            return self.null
        parsed = self.parse(value)
        return self.default if parsed is None else parsed


def field(parse: Callable[[object], T | None], *, default: T, key: str = "", keeps_null: bool = False) -> T:
    """A field of a document; mypy takes it for its value.

    Args:
        parse: Gives the value, or None for what cannot be one. It is never called with None.
        default: Where the key is missing or null, or `parse` gives None.
        key: In JSON, where that is not the field's name.
        keeps_null: Null is a value of its own, read as None, and does not stand for the default.
    """
    return _Field(parse, default, key, None if keeps_null else default)  # type: ignore[return-value]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Document:
    """An immutable JSON object with typed fields; false when it is empty.

    Constructed with fields as keyword arguments, it holds the keys of just these, in that order.
    """

    def __init__(self, **fields: object) -> None:
        self._object: JsonObject = self._as_keys(fields)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The document over a JSON value; empty when that is no object."""
        document = cls.__new__(cls)
        document._object = dict(value) if isinstance(value, Mapping) else {}
        return document

    def to_json(self) -> JsonObject:
        """The object as it was read, with the changes that were made to it. A copy."""
        return dict(self._object)

    def changed(self, **fields: object) -> Self:
        """The document with other values in some fields; new keys come last."""
        return self.from_json(self._object | self._as_keys(fields))

    @classmethod
    def _as_keys(cls, fields: Mapping[str, object]) -> JsonObject:
        found: JsonObject = {}
        for name, value in fields.items():
            known = getattr(cls, name, None)
            if not isinstance(known, _Field):
                raise TypeError(f"{cls.__name__} has no field {name!r}")
            found[known.key] = _plain(value)
        return found

    def __bool__(self) -> bool:
        return bool(self._object)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._object == self._object

    __hash__ = None  # type: ignore[assignment]  # the object may hold lists

    def __repr__(self) -> str:
        return f"{type(self).__name__}.from_json({self._object!r})"


def _plain(value: object) -> object:
    """A field's value as JSON has it."""
    if isinstance(value, Document):
        return value.to_json()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def as_integer(value: object) -> int | None:
    """A whole number; JSON of other programs may write it as 12.0."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def as_number(value: object) -> float | None:
    """A number, as it stands there."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def as_text(value: object) -> str | None:
    """A text; other scalars as text."""
    return str(value) if isinstance(value, str | int | float) else None


def as_flag(value: object) -> bool:
    """Whether it is set."""
    return bool(value)


def as_texts(value: object) -> tuple[str, ...] | None:
    """A list of texts."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else None


def as_object(value: object) -> JsonObject | None:
    """An object whose keys are the user's or another program's."""
    return dict(value) if isinstance(value, Mapping) else None


def as_objects(value: object) -> tuple[JsonObject, ...] | None:
    """A list of such objects, without what is none."""
    if not isinstance(value, list | tuple):
        return None
    return tuple(dict(one) for one in value if isinstance(one, Mapping))


def as_numbers(value: object) -> Mapping[str, float] | None:
    """An object of numbers, without what is none."""
    found = as_object(value)
    return None if found is None else {key: one for key, one in found.items() if as_number(one) is not None}


D = TypeVar("D", bound=Document)


def nested(kind: type[D]) -> Callable[[object], D | None]:
    """A document within another one."""
    return lambda value: kind.from_json(value) if isinstance(value, Mapping) else None


def many(kind: type[D]) -> Callable[[object], tuple[D, ...] | None]:
    """A list of documents, without what is no object."""

    def parse(value: object) -> tuple[D, ...] | None:
        if not isinstance(value, list | tuple):
            return None
        return tuple(kind.from_json(one) for one in value if isinstance(one, Mapping))

    return parse
