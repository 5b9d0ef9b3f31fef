"""Tools and calls in the spellings that data sets have, as chat templates read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.data.conversation.tool_calls import calls_of, tools_of
from trainer.errors import RowError

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


@pytest.mark.parametrize(
    "value",
    [
        [TOOL],
        [WEATHER],
        json.dumps([TOOL]),
        [json.dumps(WEATHER)],
        [{"function": {**WEATHER, "parameters": json.dumps(WEATHER["parameters"])}}],
        [{**TOOL, "strict": None}],
    ],
    ids=["openai", "bare", "json text", "list of texts", "parameters as text", "null of a table"],
)
def test_tools_have_one_form(value: object) -> None:
    assert tools_of(value) == [TOOL]


@pytest.mark.parametrize("value", [None, [], "", "[]", {}])
def test_no_tools(value: object) -> None:
    assert tools_of(value) is None


@pytest.mark.parametrize("value", ["{}", "[1]", "nonsense", [[]]])
def test_tools_that_are_no_objects_are_refused(value: object) -> None:
    with pytest.raises(RowError, match="`tools`"):
        tools_of(value)


@pytest.mark.parametrize(
    "value",
    [
        [CALL],
        CALL,
        json.dumps(CALL),
        {"name": "weather", "arguments": {"city": "Oslo"}},
        {"name": "weather", "arguments": json.dumps({"city": "Oslo"})},
        {"name": "weather", "arguments": json.dumps(json.dumps({"city": "Oslo"}))},
        {"name": "weather", "parameters": {"city": "Oslo"}},
        [{"name": "weather", "arguments": {"city": "Oslo", "unit": None}}],
    ],
    ids=["list", "one", "json", "bare", "arguments as text", "text in text", "parameters", "padding of a table"],
)
def test_calls_have_one_form(value: object) -> None:
    assert calls_of(value, 1, [TOOL]) == [CALL]


def test_ids_of_calls_stay() -> None:
    wrapped = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {}}}
    assert calls_of([wrapped, {"id": 7, "name": "weather"}], 0, None) == [
        {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {}}},
        {"type": "function", "id": 7, "function": {"name": "weather", "arguments": {}}},
    ]


@pytest.mark.parametrize(
    ("tools", "arguments"),
    [(None, {"city": None}), ([TOOL], {"city": None}), ([{**TOOL, "function": {"name": "weather"}}], {"city": None})],
    ids=["unknown tool", "declared", "declares nothing"],
)
def test_nulls_that_a_call_may_mean_stay(tools: Any, arguments: dict[str, Any]) -> None:
    call = calls_of({"name": "weather", "arguments": arguments}, 0, tools)[0]
    assert call["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"arguments": {}}, "a call needs `name` and `arguments`"),
        ([7], "a call needs `name` and `arguments`"),
        ({"name": "f", "arguments": [1]}, "must be an object, this is list"),
        ({"name": "f", "arguments": "not json"}, "message 3: the arguments of a call is not valid JSON"),
        ("not json", "message 3: the call is not valid JSON"),
    ],
)
def test_broken_calls_say_why(value: object, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        calls_of(value, 3, None)
