"""Values of a row that stand as text where an object is meant, and nulls that mean nothing."""

from __future__ import annotations

import ast
import json
from typing import Any

from trainer.errors import RowError

MEANT_NULLS = ("default", "const")
"""Keys of a JSON schema whose null is a value."""


def parsed(value: object, what: str) -> Any:
    """The list or object in a text, as JSON or as Python writes it (which is how pandas fills a CSV file).

    Raises:
        RowError: the text holds neither.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        literal = _literal(value)
        if isinstance(literal, list | dict):
            return literal
        raise RowError(f"{what} is not valid JSON: {error}") from None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def without_nulls(value: Any, keep: tuple[str, ...] = ()) -> Any:
    """`value` without the null entries of its objects, at every depth; lists keep theirs.

    Args:
        keep: keys whose null stays.
    """
    if isinstance(value, dict):
        return {k: without_nulls(v, keep) for k, v in value.items() if v is not None or k in keep}
    if isinstance(value, list):
        return [without_nulls(v, keep) for v in value]
    return value
