"""Turns of a conversation, in whatever spelling, to messages of one form."""

from __future__ import annotations

import json
from typing import Any

from trainer.data.conversation.tool_calls import Tool, calls_of
from trainer.data.read.row_values import parsed
from trainer.errors import RowError

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
CALL = "call"
SPEAKERS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "gpt4", "gpt-4", "bing", "bard", "claude", "gemini"), "assistant"),
    **dict.fromkeys(("model", "bot", "chatbot", "ai", "llm"), "assistant"),
    **dict.fromkeys(("function_call", "function-call", "tool_call", "tool-call", "tool_calls"), CALL),
    **dict.fromkeys(("function", "observation", "environment", "ipython"), "tool"),
    **dict.fromkeys(("function_response", "function-response", "function_result", "tool_response"), "tool"),
    **dict.fromkeys(("tool-response", "tool_result", "tool-result", "tool_output"), "tool"),
}
"""Who speaks, in the spellings of OpenAI, ShareGPT, Vicuna, OpenAssistant and their kin."""

TRAINED_WHEN_SET = ("weight", "loss_weight", "train", "training", "trainable", "loss")
"""Keys that say of one message whether it is learnt: OpenAI's, Mistral's, Axolotl's, ms-swift's."""
MASKED_WHEN_SET = ("masked",)
UNCLEAR = {
    "mask": "set `weight` to 0 or 1 instead",
    "train_detail": "only whole messages can be left out of the loss: set `weight` to 0 or 1",
    "training_detail": "only whole messages can be left out of the loss: set `weight` to 0 or 1",
}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
UNDERSTOOD = {
    *(
        "role",
        "from",
        "content",
        "value",
        "name",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "train",
        "alpaca_input",
    ),
    *REASONING_KEYS,
}


def message_of(turn: object, at: int, tools: list[Tool] | None = None) -> tuple[Message, list[str]]:
    """The message in a turn, and the keys of the turn that have no effect.

    A message that is context only, never learnt, has `train: False`.

    Raises:
        RowError: a part of it is missing or malformed, or says something that would have to be ignored.
    """
    if not isinstance(turn, dict):
        raise RowError(f"message {at} must be an object, this is {type(turn).__name__}")
    turn = {key: value for key, value in turn.items() if value is not None}
    role = _role(turn, at)
    content = _content(turn, at)
    message = {
        k: v for k, v in turn.items() if k not in (*_ROLE_KEYS, *_CONTENT_KEYS, *TRAINED_WHEN_SET, *MASKED_WHEN_SET)
    }
    trained, ignored = _trained(turn, role, at)
    calls, content = _calls(message, role, content, at, tools)
    text, reasoning = _text(content, role, at)
    text = text if text is not None else message.pop("refusal", None)
    role = "assistant" if role == CALL else role
    if text is None and not calls:
        raise RowError(f"message {at} ({role}) has neither content nor tool_calls")
    message = {"role": role, "content": text or "", **message}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    _check_reasoning(message, at)
    return (message if trained else {**message, "train": False}), ignored


_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")


def speaker_of(turn: Message) -> str | None:
    """The role of a turn that says one, by whatever name; None where it is not known."""
    return SPEAKERS.get(str(turn.get("role", turn.get("from"))).strip().lower())


def _role(turn: Message, at: int) -> str:
    spoken = [turn[key] for key in _ROLE_KEYS if key in turn]
    if "from" in turn and "role" not in turn and not turn.keys() & {*_CONTENT_KEYS, "tool_calls", "function_call"}:
        raise RowError(f"message {at} needs `from` and `value`")
    known = [SPEAKERS.get(str(who).strip().lower()) for who in spoken]
    if not known or known[0] is None:
        what = "speaker" if "from" in turn else "role"
        who = spoken[0] if spoken else None
        raise RowError(
            f"message {at}: unknown {what} {who!r}; known: {', '.join(ROLES)}, human, gpt, function_call, observation "
            "and other usual names"
        )
    if len(set(known)) > 1:
        raise RowError(f"message {at}: `role` is {spoken[0]!r} and `from` is {spoken[1]!r}")
    return known[0]


def _content(turn: Message, at: int) -> object:
    given = [turn[key] for key in _CONTENT_KEYS if key in turn]
    if len(given) > 1 and given[0] != given[1]:
        raise RowError(f"message {at} has `content` and `value`, and they differ")
    return given[0] if given else None


def _trained(turn: Message, role: str, at: int) -> tuple[bool, list[str]]:
    """Whether the message is learnt, and the keys that ask for what is not done: learning others' turns."""
    for key, remedy in UNCLEAR.items():
        if key in turn:
            raise RowError(f"message {at}: `{key}` is not understood; {remedy}")
    said = {key: _switch(turn[key], key, at) for key in TRAINED_WHEN_SET if key in turn}
    said |= {key: not _switch(turn[key], key, at) for key in MASKED_WHEN_SET if key in turn}
    if len(set(said.values())) > 1:
        raise RowError(f"message {at}: {' and '.join(f'`{key}`' for key in said)} contradict each other")
    if role not in ("assistant", CALL):
        return True, [f"{key} of {role}" for key, learn in said.items() if learn]
    return all(said.values()), []


def _switch(value: object, key: str, at: int) -> bool:
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise RowError(
        f"message {at}: `{key}` must be 0 or 1, true or false, this is {str(value)[:40]}; other weights are for whole "
        "rows: a `weight` beside the messages"
    )


def _calls(
    message: Message, role: str, content: object, at: int, tools: list[Tool] | None
) -> tuple[list[dict[str, Any]], object]:
    """The calls that a message makes, taken out of it, and what is left as its content."""
    own = message.pop("tool_calls", None) or []
    old = message.pop("function_call", None)
    calls = calls_of(own or old, at, tools) if own or old else []
    if role == CALL and not calls:
        return calls_of(content, at, tools), ""
    return calls, content


def _text(content: object, role: str, at: int) -> tuple[str | None, str]:
    """Text and reasoning of a message's content: text, or a list of parts; results of tools may be objects."""
    if content is None or isinstance(content, str):
        return content, ""
    if isinstance(content, list) and all(isinstance(part, str | dict) for part in content):
        parts = [_part(part, at) for part in content]
        return "".join(text for text, _ in parts), "".join(reasoning for _, reasoning in parts)
    if role == "tool":
        return json.dumps(content, ensure_ascii=False), ""
    raise RowError(f"message {at}: content must be text, this is {type(content).__name__}")


def _part(part: str | Message, at: int) -> tuple[str, str]:
    if isinstance(part, str):
        return part, ""
    kind = part.get("type", "text")
    if kind in ("reasoning", "thinking"):
        said = next((part[key] for key in (kind, "text", "content") if isinstance(part.get(key), str)), None)
        if said is not None:
            return "", said
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"], ""
    if kind in (*TEXT_PARTS, "reasoning", "thinking"):
        raise RowError(f"message {at}: content must be text, a part of type {kind!r} has none")
    raise RowError(f"message {at}: content must be text, a part is of type {kind!r}")


def _check_reasoning(message: Message, at: int) -> None:
    for key in REASONING_KEYS:
        if key in message and not isinstance(message[key], str):
            raise RowError(f"message {at}: `{key}` must be text, this is {type(message[key]).__name__}")


def turns_of(value: object, what: str) -> list[Any]:
    """A list of turns, given as it is, as text that holds it, as one turn, or under `messages`."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parsed(value, f"`{what}`")
    if isinstance(value, dict):
        value = value.get("messages", [value])
    if not isinstance(value, list):
        raise RowError(f"`{what}` must be a list")
    return value
