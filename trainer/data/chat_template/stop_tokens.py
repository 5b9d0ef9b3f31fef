"""Which tokens end a turn: what the model's files declare, and what its chat template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from trainer.config import ModelConfig
from trainer.data.conversation.formats import Conversation
from trainer.data.conversation.messages import Message

ANSWER = "0MARK0"
USER: Message = {"role": "user", "content": ANSWER}
PROBE = Conversation([USER, {"role": "assistant", "content": ANSWER}])


def declared_stops(model: ModelConfig, tokenizer: Any) -> list[int]:
    """Ids that end generation by the model's own files: the tokenizer, generation_config.json, config.json."""
    found = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        config = _model_json(model, name)
        for part in (config, config.get("text_config") or {}):
            value = part.get("eos_token_id")
            found += value if isinstance(value, list) else [value]
    known = len(tokenizer)
    return list(dict.fromkeys(i for i in found if isinstance(i, int) and 0 <= i < known))


def _model_json(model: ModelConfig, name: str) -> dict[str, Any]:
    try:
        file = cached_file(model.path, name, revision=model.revision, _raise_exceptions_for_missing_entries=False)
        found = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class TurnEnds:
    """Where the turns of one chat template end.

    A template may write a declared stop token after each answer (most), a token of its own that no file declares, a
    stop token after the last answer only, the next role's token (GLM), or nothing at all.

    Args:
        tokenizer: its added tokens are the control tokens.
        declared: ids from `declared_stops`.
        apply: renders a conversation with the template; None where that refuses it.

    Attributes:
        ids: tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, declared: list[int], apply: Callable[[Conversation], str | None]) -> None:
        control = sorted((str(t) for t in tokenizer.get_added_vocab()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or "(?!)")
        self._id_of = tokenizer.convert_tokens_to_ids
        self._apply = apply
        self._next_role: dict[bool, str] = {}
        self.eos = str(tokenizer.eos_token or "")
        self.texts = [str(text) for text in tokenizer.convert_ids_to_tokens(declared)]
        self.texts += self._own_end()
        self._stop = re.compile("|".join(map(re.escape, sorted(self.texts, key=len, reverse=True))) or "(?!)")

    @property
    def ids(self) -> list[int]:
        return [self._id_of(text) for text in self.texts]

    def end_in(self, turn: str) -> int | None:
        """Where the stop token of a turn ends: after it come only blanks and other control tokens."""
        for found in self._stop.finditer(turn):
            if not self._control.sub("", turn[found.end() :]).strip():
                return found.end()
        return None

    def missing_end(self, conversation: Conversation, text: str) -> str:
        """The stop token to add to `text`, which renders `conversation` and does not end in one."""
        calls = bool(conversation.messages[-1].get("tool_calls"))
        if calls not in self._next_role:
            self._next_role[calls] = self._after(conversation, text, calls)
        found = self._next_role[calls]
        return found if found in self.texts else self.eos

    def _after(self, conversation: Conversation, text: str, calls: bool) -> str:
        """The control token that starts the turn after `conversation`."""
        follow = {**USER, "role": "tool", "name": "q"} if calls else USER
        longer = self._apply(replace(conversation, messages=[*conversation.messages, follow])) or ""
        found = self._control.match(longer[len(text) :].lstrip()) if longer.startswith(text) else None
        return found.group() if found else ""

    def _own_end(self) -> list[str]:
        """A control token that closes answers, last or not, where no declared one does."""
        last = (self._apply(PROBE) or "").rpartition(ANSWER)[2]
        middle = (self._apply(replace(PROBE, messages=[*PROBE.messages, USER])) or "").split(ANSWER)
        own = self._control.match(last.lstrip())
        inner = middle[2].lstrip() if len(middle) == 4 else last.lstrip()
        if own is None or not inner.startswith(own.group()) or any(text and text in inner for text in self.texts):
            return []
        return [own.group()]
