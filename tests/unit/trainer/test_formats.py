"""Rows of every known format become the same messages; broken ones are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.formats import RowError, to_conversation

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
CALL = {"name": "f", "arguments": {"x": 1}}

SAME: dict[str, dict[str, Any]] = {
    "messages": {"messages": HELLO},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, HELLO[1]]},
    "alpaca": {"instruction": "hi", "output": "hello"},
    "alpaca with empty input": {"instruction": "hi", "input": "", "output": "hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    "prompt and completion": {"prompt": "hi", "completion": "hello"},
    "prompt and completion as messages": {"prompt": HELLO[:1], "completion": HELLO[1:]},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_formats_agree(row: dict[str, Any]) -> None:
    conversation = to_conversation(row)
    assert conversation.messages == HELLO
    assert conversation.tools is None
    assert conversation.weight == 1.0


def test_alpaca_input_system_and_history() -> None:
    row = {"instruction": "b", "input": "x", "output": "c", "system": "s", "history": [["q", "a"]]}
    texts = [(m["role"], m["content"]) for m in to_conversation(row).messages]
    expected = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "b\n\nx"), ("assistant", "c")]
    assert texts == expected


def test_sharegpt_tools_calls_and_observations() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "go"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "42"},
            {"from": "gpt", "value": "it is 42"},
        ],
        "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
        "system": "be brief",
    }
    conversation = to_conversation(row)
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2]["tool_calls"] == [{"type": "function", "function": CALL}]
    assert conversation.tools is not None
    assert conversation.tools[0]["function"]["name"] == "f"


BROKEN: list[tuple[Any, str]] = [
    ([1], "must be a JSON object"),
    ({"text": 1}, "unknown format"),
    ({"messages": "hi"}, "must be a list"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "unknown role 'boss'"),
    ({"messages": [{"role": "user"}]}, "neither content nor tool_calls"),
    ({"messages": [{"role": "user", "content": 5}]}, "content must be text"),
    ({"conversations": [{"from": "human"}]}, "needs `from` and `value`"),
    ({"conversations": [{"from": "alien", "value": ""}]}, "unknown speaker 'alien'"),
    ({"conversations": [{"from": "function_call", "value": "{"}]}, "not valid JSON"),
    ({"messages": HELLO, "tools": "{"}, "`tools` is not valid JSON"),
    ({"messages": HELLO, "weight": -1}, "`weight` must be a number"),
    ({"messages": HELLO, "weight": 1e39}, "`weight` must be a number"),
    ({"messages": HELLO, "weight": 10**400}, "`weight` must be a number"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, "pairs"),
    ({"instruction": "a", "output": "b", "history": "abc"}, "pairs"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "content must be text"),
    (None, "must be a JSON object"),
    ({"messages": HELLO, "weight": True}, "`weight` must be a number"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_broken_rows_say_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        to_conversation(row)
