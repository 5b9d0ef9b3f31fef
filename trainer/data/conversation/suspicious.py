"""What looks wrong in a conversation that can be trained on all the same: counted in the preflight report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from trainer.data.conversation.formats import Conversation
from trainer.data.conversation.messages import Message

MOJIBAKE = re.compile(
    "Ã[\u0080-\u00bf\u0192\u201a]|â€[\u0080-\u00bf\u2122\u0153\u201c\u201d\u2013\u2014\u02dc\u00a6]|Â[\u00a0-\u00bf]|ï»¿"
)
"""Letters and signs of UTF-8 that was read as Latin-1 or Windows-1252: Ã©, â€™, Â°."""


class Suspicions:
    """Looks at texts and at the order of turns.

    Args:
        tokenizer: its special tokens are the control tokens that no text should hold.
    """

    def __init__(self, tokenizer: Any) -> None:
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = {token for token in special if token.strip()}
        self._control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def of(self, conversation: Conversation) -> list[str]:
        """Each kind that was seen, once."""
        if conversation.text is not None:
            return [*self._of_text(conversation.text, "text"), *([] if conversation.text.strip() else ["empty text"])]
        seen = [what for m in conversation.messages for what in self._of_text(m["content"], f"{m['role']} text")]
        return list(dict.fromkeys([*seen, *_of_turns(conversation.messages)]))

    def _of_text(self, text: str, where: str) -> Iterator[str]:
        if self._control.search(text):
            yield f"control token in {where}"
        if "\ufffd" in text:
            yield "replacement characters (U+FFFD): bytes were lost before"
        if "\0" in text:
            yield "NUL characters"
        if not text.isascii() and MOJIBAKE.search(text):
            yield "text that was read in a wrong encoding, such as Ã© for é"


def _of_turns(messages: list[Message]) -> Iterator[str]:
    spoken = [m for m in messages if m["role"] not in ("system", "developer")]
    roles = [m["role"] for m in spoken]
    if any(m["role"] == "assistant" and not m["content"].strip() and not m.get("tool_calls") for m in spoken):
        yield "empty answer"
    if any(m["role"] == "user" and not m["content"].strip() for m in spoken):
        yield "empty user turn"
    if roles and roles[0] == "assistant":
        yield "starts with an answer"
    if "assistant" in roles and roles[-1] == "user":
        yield "ends with a user turn that nobody answers"
    if "assistant" not in roles:
        yield "no answer"
    pairs = list(pairwise(roles))
    if ("user", "user") in pairs:
        yield "two user turns in a row"
    if ("assistant", "assistant") in pairs:
        yield "two answers in a row"
