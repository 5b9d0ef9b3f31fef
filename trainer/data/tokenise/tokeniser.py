"""One chunk of rows to one shard: decode, convert, render, tokenise, mask, count, write. Runs in worker processes."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import filterfalse
from pathlib import Path

import numpy as np

from trainer.config import DataConfig, ModelConfig
from trainer.data.chat_template.lost_content import not_rendered
from trainer.data.chat_template.render import Rendered, Renderer, Rendering, TemplateRefusalError
from trainer.data.chat_template.tokenizer import load_tokenizer, make_renderer, ways_out
from trainer.data.conversation.formats import OF_MESSAGES, Conversation, RowError, mapped, to_conversation
from trainer.data.conversation.suspicious import Suspicions
from trainer.data.read.file_readers import BLANK, decoded
from trainer.data.read.sources import Chunk
from trainer.data.shards.shard import Piece, write_pieces
from trainer.data.tokenise.findings import Findings
from trainer.model_files.limits import limits_of

PLAIN_TEXT = "plain text, which the chat template does not shape"
SPANS_PROMPT = "a token spans the end of the prompt and the start of the answer: inference splits it there"


class Tokeniser:
    """Turns chunks into shards with one tokenizer and one set of data settings."""

    def __init__(self, model: ModelConfig, data: DataConfig) -> None:
        self.model, self.data = model, data
        self.tokenizer = load_tokenizer(model)
        self.limits = limits_of(model, self.tokenizer.convert_tokens_to_ids(list(model.added_tokens)))
        self._suspicions = Suspicions(self.tokenizer)

    @cached_property
    def renderer(self) -> Renderer:
        """Loaded with the first row that needs it: plain text needs no chat template."""
        return make_renderer(self.tokenizer, self.model, self.data)

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a turn, or a text."""
        eos = self.tokenizer.eos_token_id
        return self.renderer.ends.ids if "renderer" in vars(self) else [eos] if eos is not None else []

    def load_for(self, chunk: Chunk) -> None:
        """Load what the rows of `chunk` need, so that what is wrong with it is said before processes start."""
        for row in chunk.rows:
            try:
                needs_template = to_conversation(mapped(decoded(row), chunk.columns)).text is None
            except RowError:
                continue
            if needs_template:
                self.renderer  # noqa: B018
            return

    def write_shard(self, chunk: Chunk, folder: Path) -> int:
        """Tokenise `chunk` into `folder`, which appears whole or not at all; gives how many rows cannot be used."""
        findings = Findings(rows=len(chunk.rows))
        pieces = self._pieces(chunk, findings)
        staging = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_pieces(staging, chunk.source, pieces)
        facts = {**findings.as_json(), "source": chunk.source, "file": chunk.file}
        (staging / "findings.json").write_text(json.dumps(facts), encoding="utf-8")
        staging.rename(folder)
        return findings.bad_rows

    def _pieces(self, chunk: Chunk, findings: Findings) -> list[Piece]:
        kept = [one for at in range(len(chunk.rows)) for one in self._rendered(chunk, at, findings)]
        if not kept:
            return []
        texts = [one.rendering.text for one in kept]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        pieces: list[Piece] = []
        for one, ids, offsets in zip(kept, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            findings.repeated_tokens += 0 if one.longest else len(ids)
            mask = self._mask(one, np.array(offsets, np.int64).reshape(-1, 2), findings)
            pieces += self._fitted(one, np.array(ids, np.uint32), mask, findings)
        return pieces

    def _rendered(self, chunk: Chunk, at: int, findings: Findings) -> list[_Rendered]:
        number = chunk.first_row + at
        place = f"{chunk.file}:{number}"
        try:
            row = decoded(chunk.rows[at])
            if row is BLANK:
                findings.note(findings.dropped, "blank line", place)
                return []
            conversation = to_conversation(mapped(row, chunk.columns))
            left_out = _left_out(conversation)
            if left_out:
                findings.note(findings.dropped, left_out, place)
                return []
            written = self._written(conversation)
        except UnicodeEncodeError as error:
            findings.refuse(place, f"half of a surrogate pair: {error}", "mend the text")
            return []
        except TemplateRefusalError as error:
            findings.refuse(place, str(error), ways_out(self.tokenizer, self.model, self.data, conversation))
            return []
        except RowError as error:
            findings.refuse(place, str(error), "mend or remove the row")
            return []
        findings.note_all(findings.changed, written.notes, place)
        findings.note_all(findings.found, self._suspicions.of(conversation), place)
        findings.note_all(findings.ignored, filterfalse(self._reads, conversation.ignored), place)
        texts = written.renderings
        return [_Rendered(number, place, one, one is texts[-1], conversation.weight) for one in texts]

    def _reads(self, key: str) -> bool:
        """Whether the chat template reads a key of messages that is not among the usual ones."""
        name = key.removeprefix(OF_MESSAGES)
        return (
            name != key and re.search(rf"\b{re.escape(name)}\b", "".join(self.renderer.templates.values())) is not None
        )

    def _written(self, conversation: Conversation) -> Rendered:
        """The texts of a conversation, with what was changed or lost on the way.

        Raises:
            RowError: it cannot be written, or would teach something else.
            UnicodeEncodeError: no tokenizer can read it.
        """
        if conversation.text is not None:
            return Rendered([self._plain(conversation.text)], [PLAIN_TEXT] if self.data.chat_template else [])
        if not self.data.assistant_only_loss and not all(m.get("train", True) for m in conversation.messages):
            raise RowError("a message is to be left out of the loss, and data.assistant_only_loss: false learns all")
        written = self.renderer.render(conversation, whole=not self.data.assistant_only_loss)
        for one in written.renderings:
            one.text.encode("utf-8")
        return Rendered(written.renderings, [*written.notes, *not_rendered(conversation, written.renderings)])

    def _plain(self, text: str) -> Rendering:
        """Text without turns, learnt whole, between the tokens that the model begins and ends texts with."""
        text.encode("utf-8")
        begin, end = self._begins_texts, self.tokenizer.eos_token or ""
        whole = begin + text.removeprefix(begin).removesuffix(end) + end
        return Rendering(whole, [(len(begin), len(whole))], [0])

    @cached_property
    def _begins_texts(self) -> str:
        """The beginning-of-sequence token where the tokenizer itself puts it before a text."""
        ids = self.tokenizer("a")["input_ids"]
        return str(self.tokenizer.bos_token) if ids and ids[0] == self.tokenizer.bos_token_id else ""

    def _mask(self, one: _Rendered, places: np.ndarray, findings: Findings) -> np.ndarray:
        """1 for every token that shares a character with what the model writes."""
        if not self.data.assistant_only_loss:
            return np.ones(len(places), np.uint8)
        starts, ends = places[:, 0], places[:, 1]
        before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])  # where the token before ends
        starts = np.where(starts == ends, before, starts)  # blanks only: some tokenizers trim them from the offsets
        mask = np.zeros(len(places), np.uint8)
        for start, end in one.rendering.spans:
            mask |= (starts < end) & (ends > start) & (ends > starts)
        asked = [start for start, _ in one.rendering.spans]
        if any(((np.minimum(starts, before) < start) & (ends > start)).any() for start in asked):
            findings.note(findings.found, SPANS_PROMPT, one.place)
        return mask

    def _fitted(self, one: _Rendered, ids: np.ndarray, mask: np.ndarray, findings: Findings) -> list[Piece]:
        findings.longest = max(findings.longest, len(ids))
        unusable = self._unusable(ids)
        if unusable:
            findings.refuse(one.place, *unusable)
            return []
        limit = self.data.max_length
        starts = self._overlong(one, len(ids), findings) if len(ids) > limit else [0]
        trained = self.limits.trained_positions
        if trained and min(len(ids), limit) > trained and starts:
            findings.note(findings.found, f"longer than the {trained} positions that the model was made for", one.place)
        pieces = [Piece(one.number, ids[s : s + limit], mask[s : s + limit], one.weight) for s in starts]
        return [piece for piece in pieces if self._counts(one, piece, findings)]

    def _unusable(self, ids: np.ndarray) -> tuple[str, str] | None:
        """What makes these tokens impossible to train on, and what to do about it."""
        bos, largest = self.tokenizer.bos_token_id, int(ids.max(initial=0))
        if bos is not None and list(ids[:2]) == [bos] * 2:
            return (
                "the conversation starts with two beginning-of-sequence tokens",
                "remove it from the text or from the chat template",
            )
        if self.limits.vocabulary is not None and largest >= self.limits.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            return (
                f"the token {token!r} has id {largest}, and the model embeds {self.limits.vocabulary} tokens",
                "take a tokenizer and a chat template that belong to the model",
            )
        used = min(len(ids), self.data.max_length)
        if self.limits.positions is not None and used > self.limits.positions and self._keeps(len(ids)):
            return (
                f"the conversation has {used} tokens, and the model has positions for {self.limits.positions}",
                f"set data.max_length to {self.limits.positions} or less",
            )
        return None

    def _keeps(self, length: int) -> bool:
        return length <= self.data.max_length or self.data.overlong in ("truncate", "split")

    def _overlong(self, one: _Rendered, length: int, findings: Findings) -> list[int]:
        """Where the pieces of a conversation of more than max_length tokens start."""
        limit, choice = self.data.max_length, self.data.overlong
        if choice == "error":
            findings.refuse(
                one.place,
                f"the conversation has {length} tokens, data.max_length is {limit}",
                "raise data.max_length, or set data.overlong to drop, truncate or split",
            )
            return []
        if choice == "split":
            findings.note(findings.changed, f"split at {limit} tokens", one.place)
            return list(range(0, length, limit))
        findings.lost_tokens += length if choice == "drop" else length - limit
        if choice == "drop":
            findings.note(findings.dropped, f"longer than {limit} tokens", one.place)
            return []
        findings.note(findings.changed, f"truncated to {limit} tokens", one.place)
        return [0]

    def _counts(self, one: _Rendered, piece: Piece, findings: Findings) -> bool:
        if piece.targets == 0:
            findings.note(findings.dropped, "no supervised tokens", one.place)
            return False
        findings.kept += 1
        findings.tokens += len(piece.ids)
        findings.supervised_tokens += piece.targets
        findings.stop_trained += bool(np.isin(piece.ids[piece.mask > 0], self.stop_ids).any())
        return True


@dataclass(frozen=True)
class _Rendered:
    number: int
    place: str
    rendering: Rendering
    longest: bool
    weight: float


def _left_out(conversation: Conversation) -> str:
    """Why a row is not trained on, by its own wish; empty when it is."""
    if np.float32(conversation.weight) == 0:
        return "weight 0"
    if not conversation.wanted:
        return "label false: an answer that is not wanted"
    return "" if conversation.messages or conversation.text is not None else "no messages"
