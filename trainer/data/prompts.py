"""A file of prompts with answers, read before anything is queued: what it needs is no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.conversation.formats import Conversation, to_conversation
from trainer.errors import RowError, UserError

REMEDY = 'lines of {"messages", "answer", "tag"}, the messages without the answer'


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends where the model has to go on, and the answer that is right.

    Attributes:
        place: file and line.
    """

    conversation: Conversation
    answer: str
    tag: str
    place: str = ""


def read_prompts(file: Path) -> list[Prompt]:
    """JSON lines of {"messages", "answer", "tag"}; without a tag it is "all".

    Raises:
        UserError: the file is absent or empty, or a line is broken.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prompts cannot be read: {error}", where=str(file), remedy=REMEDY) from None
    prompts = [_prompt(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError("there are no prompts in the file", where=str(file), remedy=REMEDY)
    return prompts


def _prompt(line: str, place: str) -> Prompt:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise RowError("it is no object")
        conversation = to_conversation({key: value for key, value in row.items() if key not in ("answer", "tag")})
        if not conversation.messages or conversation.messages[-1]["role"] == "assistant":
            raise RowError("the messages must end where the model is to answer")
        return Prompt(conversation, _answer(row), str(row.get("tag", "all")), place)
    except (RowError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a prompt: {error}", where=place, remedy=REMEDY) from None


def _answer(row: dict[str, Any]) -> str:
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise RowError(f"`answer` must be text that is not empty, this is {str(answer)[:40]!r}")
    return str(answer)
