"""Recognises how a row holds its conversation and turns it into messages.

Known: messages (ChatML), ShareGPT (with tools, calls and observations), Alpaca, prompt/completion.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Message = dict[str, Any]

LARGEST_WEIGHT = 1e9
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


class RowError(ValueError):
    """A row that cannot be understood; the caller adds file and row number."""


@dataclass(frozen=True)
class Conversation:
    """One training example: messages in order, the tools on offer, its weight in the loss."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    weight: float = 1.0


def to_conversation(row: object) -> Conversation:
    """The conversation in a row of any known format.

    Raises:
        RowError: the row is no object, its format is unknown, or a part of it is malformed.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, this is {type(row).__name__}")
    convert = _converter(row)
    messages = [_checked(message, at) for at, message in enumerate(convert(row))]
    return Conversation(messages, _tools(row.get("tools")), _weight(row.get("weight")))


def _converter(row: Row) -> Callable[[Row], list[Message]]:
    for needed, convert in _FORMATS:
        if needed <= row.keys():
            return convert
    known = "; ".join(" + ".join(sorted(needed)) for needed, _ in _FORMATS)
    raise RowError(f"unknown format, the keys are {sorted(row)}; known formats have: {known}")


def _from_messages(row: Row) -> list[Message]:
    if not isinstance(row["messages"], list):
        raise RowError("`messages` must be a list")
    return row["messages"]


def _from_sharegpt(row: Row) -> list[Message]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise RowError("`conversations` must be a list")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return system + [_sharegpt_turn(turn, at) for at, turn in enumerate(turns)]


def _sharegpt_turn(turn: object, at: int) -> Message:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise RowError(f"turn {at} of `conversations` needs `from` and `value`")
    role = SHAREGPT_ROLES.get(str(turn["from"]))
    if role is None:
        raise RowError(f"turn {at}: unknown speaker {turn['from']!r}; known: {', '.join(SHAREGPT_ROLES)}")
    if turn["from"] == "function_call":
        return {"role": role, "content": "", "tool_calls": _tool_calls(turn["value"], at)}
    return {"role": role, "content": turn["value"]}


def _tool_calls(value: object, at: int) -> list[dict[str, Any]]:
    calls = _json(value, f"turn {at}: function_call") if isinstance(value, str) else value
    calls = calls if isinstance(calls, list) else [calls]
    for call in calls:
        if not isinstance(call, dict) or "name" not in call:
            raise RowError(f"turn {at}: a function_call needs `name` and `arguments`")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def _from_alpaca(row: Row) -> list[Message]:
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("`history` must be a list of [question, answer] pairs")
        messages += _exchange(*pair)
    prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
    return messages + _exchange(prompt, row["output"])


def _from_prompt_completion(row: Row) -> list[Message]:
    prompt, completion = row["prompt"], row["completion"]
    head = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    tail = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
    return [*head, *tail]


def _exchange(prompt: Any, answer: Any) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


_FORMATS: list[tuple[set[str], Callable[[Row], list[Message]]]] = [
    ({"messages"}, _from_messages),
    ({"conversations"}, _from_sharegpt),
    ({"instruction", "output"}, _from_alpaca),
    ({"prompt", "completion"}, _from_prompt_completion),
]


def _checked(message: object, at: int) -> Message:
    if not isinstance(message, dict):
        raise RowError(f"message {at} must be an object, this is {type(message).__name__}")
    if message.get("role") not in ROLES:
        raise RowError(f"message {at}: unknown role {message.get('role')!r}; known: {', '.join(ROLES)}")
    content = _text(message.get("content"), at)
    if content is None and not message.get("tool_calls"):
        raise RowError(f"message {at} ({message['role']}) has neither content nor tool_calls")
    return {**message, "content": content or ""}


def _text(content: object, at: int) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise RowError(f"message {at}: content must be text, this is {type(content).__name__}")


def _tools(value: object) -> list[dict[str, Any]] | None:
    if not value or value == "[]":
        return None
    tools = _json(value, "`tools`") if isinstance(value, str) else value
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("`tools` must be a list of objects")
    return [t if "function" in t else {"type": "function", "function": t} for t in tools] or None


def _weight(value: object) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_WEIGHT:
        raise RowError(f"`weight` must be a number from 0 to {LARGEST_WEIGHT:g}, this is {str(value)[:40]}")
    return float(value)


def _json(text: object, what: str) -> Any:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise RowError(f"{what} is not valid JSON: {error}") from None
