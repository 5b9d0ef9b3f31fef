"""Other forms of one conversation, and what a chat template has left out of it."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.chat_template.lost_content import AS_PYTHON, NOT_RENDERED, not_rendered
from trainer.data.chat_template.render import Rendering, TemplateRefusalError
from trainer.data.chat_template.variants import (
    ID_LENGTH,
    accommodations,
    reasoning_of,
    with_content_form,
    with_known_roles,
    with_reasoning_key,
    written_as_python,
)
from trainer.data.conversation.formats import Conversation

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
CALLING = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "long-id-1", "type": "function", "function": {"name": "f", "arguments": {"a": True}}}],
}
RESULT = {"role": "tool", "content": "R", "tool_call_id": "long-id-1"}


def forms(*messages: dict[str, Any]) -> list[tuple[list[str], list[dict[str, Any]]]]:
    return [(notes, changed.messages) for notes, changed in accommodations(Conversation(list(messages)))]


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        ([USER, ANSWER], 1),
        ([SYSTEM, USER, ANSWER], 2),
        ([SYSTEM, ANSWER], 1),
        ([USER, CALLING, RESULT], 4),
        ([SYSTEM, USER, CALLING, RESULT], 8),
    ],
)
def test_the_conversation_itself_comes_first_and_only_forms_that_differ_follow(
    messages: list[dict[str, Any]], count: int
) -> None:
    found = forms(*messages)
    assert found[0] == ([], messages)
    assert len(found) == count
    assert len({repr(changed) for _, changed in found}) == count


def test_a_system_message_moves_to_the_first_user_turn_and_is_noted() -> None:
    notes, messages = forms(SYSTEM, USER, ANSWER)[1]
    assert messages == [{"role": "user", "content": "S\n\nQ"}, ANSWER]
    assert "system message" in notes[0]


def test_ids_become_short_and_results_keep_their_call() -> None:
    _, (_, calling, result) = forms(USER, CALLING, RESULT)[1]
    identity = calling["tool_calls"][0]["id"]
    assert len(identity) == ID_LENGTH
    assert result["tool_call_id"] == identity
    assert forms(USER, CALLING, RESULT)[1] == forms(USER, CALLING, RESULT)[1], "the same every time"


def test_arguments_become_text() -> None:
    found = [messages[1]["tool_calls"][0]["function"]["arguments"] for _, messages in forms(USER, CALLING, RESULT)]
    assert found == [{"a": True}, {"a": True}, '{"a": true}', '{"a": true}']


@pytest.mark.parametrize(("text", "found"), [("f({'a': True})", True), ('f({"a": true})', False), ("nothing", False)])
def test_arguments_in_pythons_spelling_are_seen(text: str, found: bool) -> None:
    assert written_as_python([USER, CALLING], text) is found


@pytest.mark.parametrize(
    ("template", "message", "changed"),
    [
        ("{{ m.reasoning_content }}", {"thinking": "T"}, {"reasoning_content": "T"}),
        ("{{ m.thinking }}", {"reasoning_content": "T"}, {"thinking": "T"}),
        ("{{ m.content }}", {"thinking": "T"}, {"thinking": "T"}),
        ("{{ m['reasoning'] }}", {"content": "<think>T</think>A"}, {"content": "A", "reasoning": "T"}),
        ("{{ m.reasoning.split('</think>') }}", {"content": "<think>T</think>A"}, {"content": "<think>T</think>A"}),
        ("{{ m.reasoning }}", {}, {}),
    ],
)
def test_reasoning_stands_where_the_template_reads_it(
    template: str, message: dict[str, Any], changed: dict[str, Any]
) -> None:
    talk = with_reasoning_key(template)(Conversation([USER, {**ANSWER, **message}]))
    assert talk.messages == [USER, {**ANSWER, **changed}]


@pytest.mark.parametrize(
    ("template", "role"), [("{% if role == 'developer' %}", "developer"), ("{% if role == 'system' %}", "system")]
)
def test_developers_are_the_system_where_the_template_knows_no_other(template: str, role: str) -> None:
    talk = with_known_roles(template)(Conversation([{"role": "developer", "content": "S"}, USER]))
    assert [message["role"] for message in talk.messages] == [role, "user"]


@pytest.mark.parametrize(
    ("template", "parts", "content"),
    [
        ("{{ m.content }}", False, ["Q", ""]),
        ("{{ m.content }}", True, [[{"type": "text", "text": "Q"}], [{"type": "text", "text": ""}]]),
        ("{% if m['content'] is none %}", False, ["Q", None]),
    ],
)
def test_content_has_the_form_that_the_template_reads(template: str, parts: bool, content: list[Any]) -> None:
    talk = with_content_form(template, parts=parts)(Conversation([USER, CALLING]))
    assert [message["content"] for message in talk.messages] == content


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"reasoning": " T "}, "T"),
        ({"content": "<think>\nT\n</think>\nA"}, "T"),
        ({"reasoning": "", "content": "A"}, ""),
        ({"content": None}, ""),
    ],
)
def test_reasoning_of_a_message(message: dict[str, Any], found: str) -> None:
    assert reasoning_of(message) == found


def lost(messages: list[dict[str, Any]], text: str, tools: Any = None, **spans: Any) -> list[str]:
    return not_rendered(Conversation(messages, tools), [Rendering(text, spans.get("at", []), spans.get("of", []))])


@pytest.mark.parametrize(
    ("messages", "text", "missing"),
    [
        ([USER, ANSWER], "user Q assistant A", []),
        ([SYSTEM, USER, ANSWER], "user Q assistant A", [f"text of system {NOT_RENDERED}"]),
        ([USER, {**ANSWER, "reasoning": "T"}], "user Q assistant A", [f"reasoning of assistant {NOT_RENDERED}"]),
        ([USER, {**ANSWER, "content": "<think>X9</think>A"}], "Q A", [f"reasoning of assistant {NOT_RENDERED}"]),
        ([USER, CALLING, RESULT], 'Q f({"a": true}) R', []),
        ([USER, CALLING, RESULT], "Q f({'a': True}) true R", [AS_PYTHON]),
        ([USER, {**CALLING, "content": "A"}, RESULT], "Q A R", [f"calls of assistant {NOT_RENDERED}"]),
        ([{**USER, "content": 'say "é"'}, ANSWER], 'say \\"é\\" A', []),
    ],
)
def test_what_the_template_leaves_out_is_named(messages: list[dict[str, Any]], text: str, missing: list[str]) -> None:
    assert lost(messages, text) == missing


def test_an_answer_of_calls_alone_that_are_left_out_is_refused() -> None:
    with pytest.raises(TemplateRefusalError, match="an empty answer would be learnt"):
        lost([USER, CALLING, RESULT], "Q R")
    context_only = {**CALLING, "train": False}
    assert lost([USER, context_only, RESULT], "Q R") == [f"calls of assistant {NOT_RENDERED}"]


def test_a_call_counts_only_in_its_own_turn() -> None:
    text = "Q f true | R f"
    with pytest.raises(TemplateRefusalError):
        lost([{**USER, "content": "Q f true"}, CALLING, RESULT], text, at=[(11, 14)], of=[1])


def test_tools_are_offered_outside_of_answers() -> None:
    tool = {"type": "function", "function": {"name": "wind", "description": "Speed of the\nwind"}}
    assert lost([USER, ANSWER], "Speed of wind Q A", [tool]) == [f"tools {NOT_RENDERED}"]
    assert lost([USER, ANSWER], "Speed of the\nwind Q A", [tool]) == []
    assert lost([USER, ANSWER], "Q A Speed of the\nwind", [tool], at=[(2, 22)], of=[1]) == [f"tools {NOT_RENDERED}"]
