"""Values of a row that stand as text, and nulls that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.read.row_values import MEANT_NULLS, parsed, without_nulls
from trainer.errors import RowError


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([1, 2], [1, 2]),
        (None, None),
        (7, 7),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("[1, 2]", [1, 2]),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),  # as pandas writes objects into a CSV file
        ('"text"', "text"),
        ("3", 3),
    ],
)
def test_text_that_holds_a_value_becomes_the_value(value: object, found: object) -> None:
    assert parsed(value, "`tools`") == found


@pytest.mark.parametrize("text", ["", "hello", "{'a': ", "'only a text'", "(1, 2)", "[" * 100_000])
def test_text_that_holds_neither_json_nor_a_literal_is_refused_by_name(text: str) -> None:
    with pytest.raises(RowError, match="`tools` is not valid JSON"):
        parsed(text, "`tools`")


@pytest.mark.parametrize(
    ("value", "keep", "found"),
    [
        ({"a": None, "b": 1}, (), {"b": 1}),
        ({"a": {"b": None, "c": [None, {"d": None}]}}, (), {"a": {"c": [None, {}]}}),
        ({"default": None, "type": None}, MEANT_NULLS, {"default": None}),
        ([None], (), [None]),
        ("text", (), "text"),
    ],
)
def test_nulls_of_objects_go_at_every_depth_and_those_of_lists_stay(
    value: Any, keep: tuple[str, ...], found: Any
) -> None:
    assert without_nulls(value, keep) == found
