"""Other forms of the same conversation, for chat templates that do not take it as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import product

from trainer.data.conversation.formats import Conversation
from trainer.data.conversation.messages import REASONING_KEYS, Message

THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
ID_LENGTH = 9


def accommodations(conversation: Conversation) -> Iterator[tuple[list[str], Conversation]]:
    """The conversation itself, then with ever more of it changed, each with what was changed.

    Call ids of nine characters (Mistral), arguments as JSON text (DeepSeek, and templates that would write an object as
    Python does), the system message at the head of the first user turn (Gemma).
    """
    yield [], conversation
    calls = any(message.get("tool_calls") for message in conversation.messages)
    system = [m["role"] for m in conversation.messages[:2]] == ["system", "user"]
    for folded, as_text, ids in list(product((False, True), repeat=3))[1:]:
        if ((as_text or ids) and not calls) or (folded and not system):
            continue
        messages, notes = conversation.messages, []
        if ids:
            messages = _with_ids(messages)
        if as_text:
            messages = [_with_text_arguments(message) for message in messages]
        if folded:
            messages = _system_in_first_turn(messages)
            notes.append("system message put at the head of the first user turn, as the template has none")
        yield notes, replace(conversation, messages=messages)


def written_as_python(messages: list[Message], text: str) -> bool:
    """Whether arguments of calls stand in `text` with Python's quotes, as templates without `tojson` write objects."""
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    given = [call["function"].get("arguments") for call in calls]
    return any(isinstance(value, dict) and value and str(value) in text for value in given)


def with_reasoning_key(template: str) -> Callable[[Conversation], Conversation]:
    """Gives messages their reasoning under the key that `template` reads, also where it stands inside the content."""
    read = [key for key in REASONING_KEYS if re.search(rf"""[.'"]{key}\b(?![_-])""", template)]
    splits_content = "</think>" in template

    def renamed(message: Message) -> Message:
        if message["role"] != "assistant" or not read:
            return message
        have = [key for key in REASONING_KEYS if message.get(key)]
        if (not have and splits_content) or set(have) & set(read):
            return message
        rest = {key: value for key, value in message.items() if key not in have}
        if have:
            return {**rest, read[0]: message[have[0]]}
        inline = None if splits_content else THOUGHT.match(message["content"])
        if inline is None:
            return message
        return {**rest, "content": message["content"][inline.end() :], read[0]: inline.group(1).strip()}

    return _of_messages(renamed)


def _of_messages(change: Callable[[Message], Message]) -> Callable[[Conversation], Conversation]:
    """Changes conversations message by message; one that stays as it is is not copied."""

    def changed(talk: Conversation) -> Conversation:
        messages = [change(message) for message in talk.messages]
        same = all(new is old for new, old in zip(messages, talk.messages, strict=True))
        return talk if same else replace(talk, messages=messages)

    return changed


def with_content_form(template: str, *, parts: bool) -> Callable[[Conversation], Conversation]:
    """Gives messages their content as `template` reads it.

    Args:
        parts: it reads lists of parts only, as those of models that also see do.
    """
    asks_for_none = re.search(r"""content['"]?\]? is (not )?none""", template) is not None

    def formed(message: Message) -> Message:
        if asks_for_none and message.get("tool_calls") and not message["content"]:
            return {**message, "content": None}  # DeepSeek R1 writes calls of such messages only
        return {**message, "content": [{"type": "text", "text": message["content"]}]} if parts else message

    return _of_messages(formed) if parts or asks_for_none else lambda talk: talk


def with_known_roles(template: str) -> Callable[[Conversation], Conversation]:
    """Gives developers' messages the role `system` where `template` does not know the other."""
    if "developer" in template:
        return lambda talk: talk

    def renamed(message: Message) -> Message:
        return {**message, "role": "system"} if message["role"] == "developer" else message

    return _of_messages(renamed)


def reasoning_of(message: Message) -> str:
    """The reasoning of a message, under a key of its own or at the head of its content."""
    for key in REASONING_KEYS:
        if isinstance(message.get(key), str) and message[key].strip():
            return str(message[key]).strip()
    inline = THOUGHT.match(message.get("content") or "")
    return inline.group(1).strip() if inline else ""


def _system_in_first_turn(messages: list[Message]) -> list[Message]:
    system, user, *rest = messages
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _with_text_arguments(message: Message) -> Message:
    calls = [
        {**call, "function": {**call["function"], "arguments": _as_text(call["function"].get("arguments", {}))}}
        for call in message.get("tool_calls") or []
    ]
    return {**message, "tool_calls": calls} if calls else message


def _as_text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _with_ids(messages: list[Message]) -> list[Message]:
    """Calls with ids of nine characters, the same every time, and each result with the id of its call."""
    changed, open_ids = [], list[str]()
    renamed: dict[str, str] = {}
    for at, message in enumerate(messages):
        if message.get("tool_calls"):
            ids = [sha256(f"{at}.{n}".encode()).hexdigest()[:ID_LENGTH] for n in range(len(message["tool_calls"]))]
            renamed |= {str(c.get("id")): new for c, new in zip(message["tool_calls"], ids, strict=True)}
            open_ids = list(ids)
            calls = [{**call, "id": new} for call, new in zip(message["tool_calls"], ids, strict=True)]
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            own = renamed.get(str(message.get("tool_call_id"))) if message.get("tool_call_id") else None
            own = own or (open_ids.pop(0) if open_ids else "0" * ID_LENGTH)
            message = {**message, "tool_call_id": own}
        changed.append(message)
    return changed
