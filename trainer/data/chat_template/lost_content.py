"""Whether what a conversation says has come out of the chat template: many templates know texts only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from trainer.data.chat_template.render import Rendering, TemplateRefusalError
from trainer.data.chat_template.variants import written_as_python
from trainer.data.conversation.formats import Conversation
from trainer.data.conversation.messages import REASONING_KEYS, Message

NOT_RENDERED = "not written by the chat template"
AS_PYTHON = "arguments of calls written as Python, not as JSON, by the chat template"


def not_rendered(conversation: Conversation, renderings: list[Rendering]) -> list[str]:
    """What of a conversation is missing in the texts that it was rendered to, for the report.

    Raises:
        TemplateRefusalError: a turn of the assistant has lost all that it says, so its end alone would be learnt.
    """
    whole = "\n".join(one.text for one in renderings)
    lost: list[str] = []
    for at, message in enumerate(conversation.messages):
        own = _own_text(at, renderings) or whole
        missing = list(_missing(message, own))
        if "calls" in missing and message.get("train", True) and not _has_text(message, own):
            raise TemplateRefusalError(
                f"message {at}: the chat template does not write the tool calls, so an empty answer would be learnt"
            )
        lost += [f"{part} of {message['role']} {NOT_RENDERED}" for part in missing]
        lost += [AS_PYTHON] if written_as_python([message], own) else []
    around = _outside(renderings)
    if not all(_offered(tool["function"], around) for tool in _functions(conversation)):
        lost.append(f"tools {NOT_RENDERED}")
    return list(dict.fromkeys(lost))


def _own_text(at: int, renderings: list[Rendering]) -> str:
    """What was written as message `at`, where that is known: the parts that the model writes."""
    marked = ((one, span) for one in renderings for span, turn in zip(one.spans, one.turns, strict=False) if turn == at)
    return "\n".join(one.text[start:end] for one, (start, end) in marked)


def _outside(renderings: list[Rendering]) -> str:
    """What is written beside the parts that the model writes."""
    parts = []
    for one in renderings:
        edges = [0, *(edge for span in sorted(one.spans) for edge in span), len(one.text)]
        parts += [one.text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return "\n".join(parts)


def _has_text(message: Message, own: str) -> bool:
    content = message["content"].strip()
    return bool(content) and _is_in(content, own)


def _offered(function: dict[str, Any], around: str) -> bool:
    told = str(function.get("description") or function.get("name") or "").strip()
    return _is_in(told, around) or all(_is_in(line.strip(), around) for line in told.splitlines())


def _missing(message: Message, whole: str) -> Iterator[str]:
    """Parts of a message that are not in `whole`: its text, its calls, its reasoning."""
    content = message["content"].strip()
    thought, _, answer = content.rpartition("</think>")
    if not _is_in(content, whole) and not _alpaca_parts_in(message, whole):
        if not thought or not _is_in(answer.strip(), whole):
            yield "text"
        elif not _is_in(thought.removeprefix("<think>").strip(), whole):
            yield "reasoning"
    calls = message.get("tool_calls") or []
    if not all(_is_in(text, whole) for call in calls for text in _texts(call["function"])):
        yield "calls"
    if any(not _is_in(message[key].strip(), whole) for key in REASONING_KEYS if key in message):
        yield "reasoning"


def _alpaca_parts_in(message: Message, whole: str) -> bool:
    """Whether instruction and input, which most templates write as one text, stand in a section each."""
    more = str(message.get("alpaca_input") or "")
    return more != "" and _is_in(more, whole) and _is_in(message["content"].removesuffix(more).strip(), whole)


def _functions(conversation: Conversation) -> list[dict[str, Any]]:
    return [tool for tool in conversation.tools or [] if isinstance(tool.get("function"), dict)]


def _texts(value: Any) -> Iterator[str]:
    """All values in a call, as a template would write each."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def _is_in(text: str, whole: str) -> bool:
    """Whether `text` stands in `whole`, as it is or as JSON writes it."""
    return text in whole or any(json.dumps(text, ensure_ascii=ascii)[1:-1] in whole for ascii in (False, True))
