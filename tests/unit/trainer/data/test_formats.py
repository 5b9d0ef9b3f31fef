"""Rows of every known format become the same messages; broken ones are refused with a reason."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.data.conversation.formats import RowError, mapped, to_conversation
from trainer.data.conversation.messages import ROLES

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
    "messages inside prompt": {"prompt": {"messages": HELLO[:1]}, "completion": HELLO[1]},
    "prompt and output": {"prompt": "hi", "output": "hello"},
    "with a rendered prompt beside it": {
        "instruction": "hi",
        "input": "",
        "output": "hello",
        "prompt": "### Instruction",
    },
    "prompt and response": {"prompt": "hi", "response": "hello"},
    "question and answer": {"question": "hi", "answer": "hello"},
    "query and response": {"query": "hi", "response": "hello"},
    "problem and solution": {"problem": "hi", "solution": "hello"},
    "input and output": {"input": "hi", "output": "hello"},
    "dolly": {"instruction": "hi", "context": "", "response": "hello"},
    "roles under conversations": {"conversations": HELLO},
    "speakers in capitals": {"conversations": [{"from": "Human", "value": "hi"}, {"from": "GPT", "value": "hello"}]},
    "columns of another form that are null": {"messages": HELLO, "prompt": None, "completion": None},
    "messages that are null": {"messages": None, "prompt": "hi", "completion": "hello"},
    "messages that are an empty cell": {"messages": "", "prompt": "hi", "completion": "hello"},
    "keys of turns that are null": {
        "messages": [{**m, "from": None, "value": None, "tool_calls": None} for m in HELLO]
    },
    "both forms, and the same": {"messages": HELLO, "prompt": "hi", "completion": "hello"},
    "as JSON text": {"messages": json.dumps(HELLO)},
    "as Python text": {"messages": str(HELLO)},
    "parts that are texts": {"messages": [{"role": "user", "content": ["h", "i"]}, HELLO[1]]},
    "preferred text": {"prompt": "hi", "chosen": "hello", "rejected": "no"},
    "preferred messages": {"prompt": HELLO[:1], "chosen": HELLO[1:], "rejected": HELLO[1:]},
    "preferred conversation": {"prompt": "hi", "chosen": HELLO, "rejected": HELLO},
    "preferred turn": {"conversations": HELLO[:1], "chosen": {"from": "gpt", "value": "hello"}, "rejected": {}},
    "preferred transcript": {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi"},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_formats_agree(row: dict[str, Any]) -> None:
    conversation = to_conversation(row)
    assert conversation.messages == HELLO
    assert conversation.tools is None
    assert conversation.weight == 1.0


@pytest.mark.parametrize("speaker", ["gpt", "chatgpt", "bing", "bard", "assistant", "model"])
def test_all_usual_names_of_the_assistant(speaker: str) -> None:
    row = {"conversations": [{"from": "human", "value": "hi"}, {"from": speaker, "value": "hello"}]}
    assert to_conversation(row).messages == HELLO


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HELLO, "prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b", "prompt": "c", "response": "d"},
        {"prompt": "a", "completion": "b", "chosen": "c"},
        {"prompt": "a", "completion": "b", "response": "c"},
        {"messages": HELLO, "conversations": HELLO[:1]},
    ],
)
def test_rows_of_two_forms_are_refused_with_both_names(row: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=r".* and .* differ"):
        to_conversation(row)


def test_answers_of_unpaired_preferences_that_are_not_wanted_are_known() -> None:
    rows = [{"prompt": "hi", "completion": "hello", "label": label} for label in (True, False, 3)]
    assert [to_conversation(row).wanted for row in rows] == [True, False, True]
    assert [to_conversation(row).ignored for row in rows] == [(), (), ("label",)]


def test_plain_text_has_no_messages() -> None:
    conversation = to_conversation({"text": "once", "id": 3})
    assert (conversation.text, conversation.messages, conversation.ignored) == ("once", [], ("id",))


def test_text_beside_another_form_is_ignored_by_name() -> None:
    conversation = to_conversation({"instruction": "hi", "input": "", "output": "hello", "text": "rendered"})
    assert (conversation.messages, conversation.ignored) == (HELLO, ("text",))


def test_columns_name_what_is_read() -> None:
    row = {"ask": "hi", "reply": "hello", "weight": 92.5, "prompt": "other"}
    columns: dict[str, str | None] = {"prompt": "ask", "completion": "reply", "weight": None}
    conversation = to_conversation(mapped(row, columns))
    assert (conversation.messages, conversation.weight, conversation.ignored) == (HELLO, 1.0, ())
    with pytest.raises(RowError, match="no column 'ask'"):
        mapped({"question": "x"}, columns)


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": False}, {"loss": False}, {"masked": True}],
    ids=str,
)
def test_a_message_can_be_context_only(mark: dict[str, Any]) -> None:
    conversation = to_conversation({"messages": [HELLO[0], {**HELLO[1], **mark}, *HELLO]})
    assert [m.get("train", True) for m in conversation.messages] == [True, False, True, True]
    assert conversation.ignored == ()


def test_keys_without_effect_are_named() -> None:
    row = {"messages": [{**HELLO[0], "weight": 1}, {**HELLO[1], "weight": 1, "mood": "good"}], "age": 40, "topic": None}
    assert to_conversation(row).ignored == ("age", "messages: mood", "messages: weight of user")


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}', '"{\\"x\\": 1}"'])
@pytest.mark.parametrize("form", ["tool_calls", "flat", "function_call", "sharegpt"])
def test_arguments_become_an_object(form: str, arguments: Any) -> None:
    call = {"name": "f", "arguments": arguments}
    turn: dict[str, Any] = {
        "tool_calls": {"role": "assistant", "content": None, "tool_calls": [{"id": None, "function": call}]},
        "flat": {"role": "assistant", "tool_calls": [call]},
        "function_call": {"role": "assistant", "content": "", "function_call": call},
        "sharegpt": {"from": "function_call", "value": json.dumps(call)},
    }[form]
    assert to_conversation({"conversations": [HELLO[0], turn]}).messages[1]["tool_calls"] == [
        {"type": "function", "function": CALL}
    ]


def test_nulls_that_a_table_padded_with_are_left_out_and_meant_ones_stay() -> None:
    """The JSON of a table that was written out again; the user's own null is of an argument that the tool declares."""
    tool = {"name": "f", "parameters": {"properties": {"x": {"type": "integer", "default": None, "enum": None}}}}
    call = {"name": "f", "arguments": {"x": None, "city": None}}
    conversation = to_conversation(
        {"messages": [HELLO[0], {"role": "assistant", "tool_calls": [call]}], "tools": [tool]}
    )
    assert conversation.tools is not None
    assert conversation.tools[0]["function"]["parameters"]["properties"] == {"x": {"type": "integer", "default": None}}
    assert conversation.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": None}


def test_reasoning_parts_and_old_results() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "five"}]
    row = {
        "messages": [{"role": "function", "name": "f", "content": {"x": 1}}, {"role": "assistant", "content": parts}]
    }
    result, answer = to_conversation(row).messages
    assert result == {"role": "tool", "name": "f", "content": '{"x": 1}'}
    assert answer == {"role": "assistant", "content": "five", "reasoning_content": "hm"}


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
    ({"messages": [HELLO[0], {**HELLO[1], "weight": 0.5}]}, "must be 0 or 1"),
    ({"messages": [HELLO[0], {**HELLO[1], "weight": 0, "train": True}]}, "contradict"),
    ({"messages": [HELLO[0], {**HELLO[1], "mask": True}]}, "`mask` is not understood"),
    ({"messages": [HELLO[0], {**HELLO[1], "from": "human"}]}, "`role` is 'assistant' and `from` is 'human'"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "not valid JSON"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}]}, "must be an object"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "of type 'image_url'"),
    ({"messages": HELLO, "weight": "heavy"}, "`weight` must be a number"),
    ({"messages": HELLO, "weight": True}, "`weight` must be a number"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_broken_rows_say_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        to_conversation(row)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner):
        yield from places_in(part, (*path, key))


STRANGE: list[Any] = [None, "", 0, -1, 1e400, True, [], {}, [[]], [{}], [None], "[", "{}", "[[1,2]]", "\ud800", 10**400]
STRANGE += [
    {"role": "user"},
    {"role": ["x"], "content": "a"},
    {"from": {"a": 1}, "value": 1},
    {"name": "f", "arguments": 5},
]
SOUND = [
    *SAME.values(),
    {"messages": [HELLO[0], {"role": "assistant", "tool_calls": [{"function": CALL}], "weight": 0}], "weight": 2.0},
    {"messages": HELLO, "tools": [{"name": "f", "parameters": {"properties": {"x": {}}}}]},
    {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(CALL)}],
        "system": "s",
    },
    {"instruction": "b", "input": "x", "output": "c", "history": [["q", "a"]]},
]


def test_mutated_rows_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(0)
    for _ in range(5000):
        row = copy.deepcopy(rng.choice(SOUND))
        for _ in range(rng.randint(1, 3)):
            *path, last = rng.choice(list(places_in(row)) or [("messages",)])
            part: Any = row
            for key in path:
                part = part[key]
            part[last] = copy.deepcopy(rng.choice(STRANGE))
        try:
            conversation = to_conversation(row)
        except RowError:
            continue
        assert all(isinstance(m["content"], str) and m["role"] in ROLES for m in conversation.messages)
