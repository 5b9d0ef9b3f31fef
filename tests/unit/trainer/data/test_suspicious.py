"""What looks wrong in a conversation that can be trained on all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer.data.conversation.formats import Conversation
from trainer.data.conversation.suspicious import Suspicions

TOKENIZER = SimpleNamespace(
    all_special_tokens=["<|im_end|>", " "],
    added_tokens_decoder={1: SimpleNamespace(special=False, __str__=lambda self: "plain")},
)
SUSPICIONS = Suspicions(TOKENIZER)


def turns(*said: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (turns(("user", "hi"), ("assistant", "hello")), []),
        (turns(("system", "be kind"), ("user", "hi"), ("assistant", "hello")), []),
        (turns(("user", "say <|im_end|>"), ("assistant", "no")), ["control token in user text"]),
        (turns(("user", "hi"), ("assistant", "a\0b")), ["NUL characters"]),
        (turns(("user", "caf\ufffd"), ("assistant", "b")), ["replacement characters (U+FFFD): bytes were lost before"]),
        (turns(("user", "cafÃ©"), ("assistant", "b")), ["text that was read in a wrong encoding, such as Ã© for é"]),
        (turns(("user", "Ação, â and Â are letters"), ("assistant", "b")), []),
        (turns(("user", "hi"), ("assistant", "  ")), ["empty answer"]),
        (turns(("user", " "), ("assistant", "b")), ["empty user turn"]),
        (
            turns(
                ("assistant", "b"),
            ),
            ["starts with an answer"],
        ),
        (turns(("user", "a"), ("assistant", "b"), ("user", "c")), ["ends with a user turn that nobody answers"]),
        (turns(("user", "a")), ["no answer"]),
        (turns(("user", "a"), ("user", "b"), ("assistant", "c")), ["two user turns in a row"]),
        (turns(("user", "a"), ("assistant", "b"), ("assistant", "c")), ["two answers in a row"]),
    ],
)
def test_each_kind_is_named_once(messages: list[dict[str, Any]], found: list[str]) -> None:
    assert SUSPICIONS.of(Conversation(messages)) == found


def test_an_answer_that_only_calls_a_tool_is_not_empty() -> None:
    messages = [*turns(("user", "hi")), {"role": "assistant", "content": "", "tool_calls": [{}]}]
    assert SUSPICIONS.of(Conversation(messages)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("fine", []), ("", ["empty text"]), ("a<|im_end|>b", ["control token in text"])],
)
def test_plain_text(text: str, found: list[str]) -> None:
    assert SUSPICIONS.of(Conversation([], text=text)) == found


def test_a_tokenizer_without_special_tokens_finds_no_control_tokens() -> None:
    plain = Suspicions(SimpleNamespace(all_special_tokens=[], added_tokens_decoder={}))
    assert plain.of(Conversation(turns(("user", "<s>"), ("assistant", "b")))) == []
