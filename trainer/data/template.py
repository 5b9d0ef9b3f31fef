"""Conversation to text with the spans that the assistant wrote, through the tokenizer's chat template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.config import ModelConfig
from trainer.data.formats import Conversation, RowError
from trainer.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's fast tokenizer.

    Raises:
        UserError: it cannot be loaded, or it has no character offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise UserError(
            f"no tokenizer could be loaded from {model.path} ({type(error).__name__}: {error})",
            remedy="`model.path` needs tokenizer.json and tokenizer_config.json, or a hub name and its network",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{model.path} has no fast tokenizer", remedy="convert it: masks need character offsets")
    return tokenizer


class Renderer:
    """Renders conversations with one chat template.

    Spans of the assistant come from `{% generation %}` where the template has it, else from the difference between
    the conversation up to a turn with and without that turn.

    Args:
        tokenizer: a fast tokenizer.
        chat_template: None for the tokenizer's own, a name under `templates/`, or a `.jinja` file.

    Raises:
        UserError: there is no template, or it is not known.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self.template = _template_text(tokenizer, chat_template)
        self.special_tokens = tokenizer.special_tokens_map
        self.marks_generation = bool(GENERATION.search(self.template))

    def render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """Text, and the character ranges that the assistant wrote, end of turn included.

        Raises:
            RowError: the template refuses the conversation or does not keep its beginning.
        """
        if self.marks_generation:
            texts, spans = self._apply(conversation, conversation.messages, assistant=True)
            return texts[0], [(int(start), int(end)) for start, end in spans[0]]
        return self._by_prefixes(conversation)

    def prompt(self, conversation: Conversation) -> str:
        """Text that asks the model for the next turn."""
        return str(self._apply(conversation, conversation.messages, generate=True)[0][0])

    def _by_prefixes(self, conversation: Conversation) -> tuple[str, list[Span]]:
        messages = conversation.messages
        whole = self._apply(conversation, messages)[0][0]
        spans = []
        for at, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._apply(conversation, messages[:at], generate=True)[0][0]
                upto = self._apply(conversation, messages[: at + 1])[0][0]
                if not (upto.startswith(before) and whole.startswith(upto)):
                    raise RowError(
                        f"the chat template rewrites earlier turns, so the assistant's part of turn {at} is unknown; "
                        "set data.chat_template to one with {% generation %} markers, such as chatml"
                    )
                spans.append((len(before), len(upto)))
        return whole, spans

    def _apply(
        self, conversation: Conversation, messages: list[Any], *, assistant: bool = False, generate: bool = False
    ) -> Any:
        try:
            return render_jinja_template(
                [messages],
                tools=conversation.tools,  # type: ignore[arg-type]
                chat_template=self.template,
                return_assistant_tokens_mask=assistant,
                add_generation_prompt=generate,
                **self.special_tokens,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise RowError(f"the chat template refuses this conversation: {error}") from None


def _template_text(tokenizer: Any, name: str | None) -> str:
    if name is None:
        if not isinstance(tokenizer.chat_template, str):
            known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
            raise UserError("the tokenizer has no chat template", remedy=f"set data.chat_template to one of: {known}")
        return tokenizer.chat_template
    path = Path(name) if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        known = ", ".join(sorted(template.stem for template in TEMPLATES.glob("*.jinja")))
        raise UserError(f"unknown chat template {name!r}", remedy=f"known: {known}, or the path of a .jinja file")
    return path.read_text(encoding="utf-8")
