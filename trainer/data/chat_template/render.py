"""Conversation to texts with the parts that the model writes at inference, through a chat template."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.data.chat_template.stop_tokens import ANSWER, PROBE, TurnEnds
from trainer.data.chat_template.variants import (
    accommodations,
    reasoning_of,
    with_content_form,
    with_known_roles,
    with_reasoning_key,
    written_as_python,
)
from trainer.data.conversation.formats import Conversation, RowError
from trainer.data.conversation.messages import Message

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPENS_THOUGHT = re.compile(r"<(\w+)>\s*$")
MODES = [{"enable_thinking": on, "thinking": on} for on in (True, False)]
Span = tuple[int, int]
Result = TypeVar("Result", "Rendered", str)


class TemplateRefusalError(RowError):
    """A conversation that the chat template does not take."""


@dataclass(frozen=True)
class Rendering:
    """One text to train on.

    Attributes:
        text: a conversation up to some turn, as the template writes it then.
        spans: character ranges that the model writes, end of turn included.
        turns: the message that each span belongs to.
    """

    text: str
    spans: list[Span]
    turns: list[int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as texts to train on, and what was done to fit it into the template, for the report."""

    renderings: list[Rendering]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Turn:
    """One assistant turn as the model meets it: the prompt, what it has to write, and where that has ended."""

    at: int
    prompt: str
    written: str
    needed: int

    @property
    def text(self) -> str:
        return self.prompt + self.written

    def seen_in(self, text: str) -> bool:
        """Whether `text` shows this turn just as inference does: the same prompt, the same answer with its end."""
        return text.startswith(self.prompt) and text.startswith(self.written[: self.needed], len(self.prompt))

    def span_in(self, text: str) -> Span:
        """What the model writes: all of it in the turn's own text, up to its end and the blanks after it in others."""
        end = len(self.prompt) + self.needed
        after = self.text[end:]
        blanks = after[: len(after) - len(after.lstrip())]
        end += len(blanks) if text.startswith(blanks, end) else 0
        return len(self.prompt), len(text) if text == self.text else end


class Renderer:
    """Renders conversations with one chat template, so that training sees what inference sees.

    Templates with `{% generation %}` say which parts the assistant wrote. With others, what follows the generation
    prompt of a turn is what the model writes in it. Where a template writes earlier turns otherwise than it wrote
    them when they were the last (their reasoning is left out, another token ends them), such turns get a rendering
    of their own: the conversation up to that turn. All turns that one text shows unchanged share it.

    Args:
        tokenizer: a fast tokenizer.
        templates: Jinja templates by name: `default`, perhaps `tool_use` for conversations with tools.
        declared: ids that end generation, from `declared_stops`.
        options: variables for the template, such as `enable_thinking`.
    """

    def __init__(self, tokenizer: Any, templates: dict[str, str], declared: list[int], options: dict[str, Any]) -> None:
        self.templates = templates
        self.options = {**tokenizer.special_tokens_map, **options}
        self._reasoning_key = with_reasoning_key("".join(templates.values()))
        self._known_roles = with_known_roles("".join(templates.values()))
        for parts in (False, True, False):
            self._formed = with_content_form("".join(templates.values()), parts=parts)
            if self._shows_answers():
                break
        self._marks_generation = {name: bool(GENERATION.search(text)) for name, text in templates.items()}
        self.ends = TurnEnds(tokenizer, declared, self._try)

    def _shows_answers(self) -> bool:
        """Whether the template writes contents in the form that they now have."""
        probe = self._try(PROBE)
        return probe is None or ANSWER in probe

    def template_for(self, conversation: Conversation) -> str:
        """The name of the template that writes `conversation`."""
        return "tool_use" if conversation.tools and "tool_use" in self.templates else "default"

    def render(self, conversation: Conversation, *, whole: bool = False) -> Rendered:
        """Texts, and the character ranges in them that the assistant wrote, end of turn included.

        Args:
            whole: one text of all messages, as it is for learning every token.

        Raises:
            TemplateRefusalError: the template refuses the conversation, or cannot ask for a turn as it then writes it.
        """
        given = len(conversation.messages)

        def rendered(changed: Conversation, notes: list[str]) -> Rendered:
            found = self._rendered(changed, notes, whole)
            moved = given - len(changed.messages)
            if not moved:
                return found
            return replace(
                found, renderings=[replace(r, turns=[at + moved for at in r.turns]) for r in found.renderings]
            )

        return self._first_taken(conversation, rendered)

    def prompt(self, conversation: Conversation) -> str:
        """Text that asks the model for the next turn."""
        return self._first_taken(conversation, lambda changed, _: self._apply(changed, generate=True))

    def _first_taken(self, conversation: Conversation, use: Callable[[Conversation, list[str]], Result]) -> Result:
        """What `use` gives for the first form of the conversation that the template takes, and writes as JSON."""
        refused: TemplateRefusalError | None = None
        taken: list[Result] = []
        for notes, changed in accommodations(self._known_roles(self._reasoning_key(conversation))):
            try:
                taken.append(use(changed, notes))
            except TemplateRefusalError as error:
                refused = refused or error
                continue
            if not written_as_python(conversation.messages, _text_of(taken[-1])):
                return taken[-1]
        if taken:
            return taken[0]
        assert refused is not None
        raise refused

    def _rendered(self, conversation: Conversation, notes: list[str], whole: bool) -> Rendered:
        texts = self._by_marks(conversation) if self._marks_generation[self.template_for(conversation)] else None
        if texts is None:
            texts = _shared([self._turn(conversation, at, notes) for at in _supervised(conversation)])
        if whole or not texts:
            texts = [self._whole(conversation, texts)]
        if len(texts) > 1:
            notes.append("rendered once per answer, as the template rewrites earlier turns")
        return Rendered(texts, notes)

    def _whole(self, conversation: Conversation, answers: list[Rendering]) -> Rendering:
        """All messages; where the last is an answer, as it is rendered for training, with its end."""
        if answers and answers[-1].turns[-1:] == [len(conversation.messages) - 1]:
            return answers[-1]
        return Rendering(self._apply(conversation), [], [])

    def _by_marks(self, conversation: Conversation) -> list[Rendering] | None:
        """By the template's own marks; None where they do not tell which turn is whose, and not all are trained."""
        text, spans = self._marks(conversation)
        turns = [at for at, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        trained = _supervised(conversation)
        if len(turns) != len(spans):
            return [Rendering(text, spans, turns[-1:] * len(spans))] if turns and trained == turns else None
        if any(reasoning_of(conversation.messages[at]) for at in turns[:-1]):  # which templates may leave out later on
            alone = [(at, *self._marks(_upto(conversation, at + 1))) for at in trained]
            return _shared([_Turn(at, t[: s[-1][0]], t[slice(*s[-1])], s[-1][1] - s[-1][0]) for at, t, s in alone])
        kept = [(span, at) for span, at in zip(spans, turns, strict=True) if at in trained]
        return [Rendering(text, [span for span, _ in kept], [at for _, at in kept])] if kept else []

    def _marks(self, conversation: Conversation) -> tuple[str, list[Span]]:
        texts, found = self._render(conversation, assistant=True)
        return str(texts[0]), [(int(start), int(end)) for start, end in found[0]]

    def _turn(self, conversation: Conversation, at: int, notes: list[str]) -> _Turn:
        prompt, written = self._asked_and_written(conversation, at, notes)
        end = self.ends.end_in(written)
        if end is None:
            upto = _upto(conversation, at + 1)
            added = self.ends.missing_end(upto, self._apply(upto))
            written, end = written + added, len(written + added)
            if added and added == self.ends.eos:
                notes.append(f"{added} added after answers, as the template ends them with no stop token")
        return _Turn(at, prompt, written, end)

    def _asked_and_written(self, conversation: Conversation, at: int, notes: list[str]) -> tuple[str, str]:
        """The prompt at inference, and what the model then has to write to give the template's text of the turn."""
        before, upto = _upto(conversation, at), _upto(conversation, at + 1)
        text = self._apply(upto)
        if not before.messages:  # nothing asks for it
            start = max(text.find(conversation.messages[0]["content"]), 0)
            return text[:start], text[start:]
        prompt = self._apply(before, generate=True)
        if text.startswith(prompt):
            return prompt, text[len(prompt) :]
        opened = OPENS_THOUGHT.search(prompt)
        if opened and text.startswith(prompt[: opened.start()]):
            notes.append("thoughts closed that the generation prompt opens and the template leaves out")
            return prompt, _closed(text[opened.start() :], opened.group(1), conversation.messages[at])
        for mode in MODES:
            prompt, text = self._apply(before, generate=True, **mode), self._apply(upto, **mode)
            if text.startswith(prompt):
                notes.append(f"turns that the template only asks for with enable_thinking={mode['enable_thinking']}")
                return prompt, text[len(prompt) :]
        raise TemplateRefusalError(
            f"the chat template asks for message {at} with {prompt[-40:]!r} and then writes it otherwise, so what the "
            "model has to write is unknown"
        )

    def _try(self, conversation: Conversation) -> str | None:
        try:
            return self._apply(conversation)
        except TemplateRefusalError:
            return None

    def _apply(self, conversation: Conversation, *, generate: bool = False, **mode: Any) -> str:
        return str(self._render(conversation, generate=generate, **mode)[0][0])

    def _render(
        self, conversation: Conversation, *, assistant: bool = False, generate: bool = False, **mode: Any
    ) -> Any:
        try:
            return render_jinja_template(
                [self._formed(conversation).messages],
                tools=conversation.tools,  # type: ignore[arg-type]
                chat_template=self.templates[self.template_for(conversation)],
                return_assistant_tokens_mask=assistant,
                add_generation_prompt=generate,
                **{**mode, **self.options},
            )
        except (TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise TemplateRefusalError(f"the chat template refuses this conversation: {error}") from None


def _shared(turns: list[_Turn]) -> list[Rendering]:
    """As few renderings as show every turn unchanged, the longest last."""
    renderings = []
    while turns:
        text = turns[-1].text
        shown = [turn for turn in turns if turn is turns[-1] or turn.seen_in(text)]
        renderings.append(Rendering(text, [turn.span_in(text) for turn in shown], [turn.at for turn in shown]))
        turns = [turn for turn in turns if turn not in shown]
    return renderings[::-1]


def _text_of(result: str | Rendered) -> str:
    return result if isinstance(result, str) else "\n".join(one.text for one in result.renderings)


def _supervised(conversation: Conversation) -> list[int]:
    return [
        at for at, message in enumerate(conversation.messages) if message["role"] == "assistant" and _trains(message)
    ]


def _trains(message: Message) -> bool:
    return message.get("train", True) is not False


def _upto(conversation: Conversation, count: int) -> Conversation:
    return replace(conversation, messages=conversation.messages[:count])


def _closed(turn: str, tag: str, message: Message) -> str:
    """`turn` as it goes on after its opening `<tag>`: the thought, its end, the answer."""
    if turn.startswith(f"<{tag}>"):
        return turn[len(tag) + 2 :].lstrip()
    return f"{reasoning_of(message)}\n</{tag}>\n\n{turn.lstrip()}"
