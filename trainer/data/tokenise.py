"""One chunk of rows to one shard: decode, convert, render, tokenise, mask, count, write. Runs in worker processes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import DataConfig, ModelConfig
from trainer.data.findings import Findings
from trainer.data.formats import RowError, mapped, to_conversation
from trainer.data.render import Rendering, TemplateRefusalError
from trainer.data.shards import Piece, write_pieces
from trainer.data.sources import Chunk
from trainer.data.template import load_tokenizer, make_renderer, ways_out

BLANK = object()
SPANS_PROMPT = "a token spans the end of the prompt and the start of the answer: inference splits it there"


class Tokeniser:
    """Turns chunks into shards with one tokenizer and one set of data settings."""

    def __init__(self, model: ModelConfig, data: DataConfig) -> None:
        self.model, self.data = model, data
        self.tokenizer = load_tokenizer(model)
        self.renderer = make_renderer(self.tokenizer, model, data)
        self.stop_ids = self.renderer.ends.ids

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
            row = _decoded(chunk.rows[at])
            if row is BLANK:
                findings.note(findings.dropped, "blank line", place)
                return []
            conversation = to_conversation(mapped(row, chunk.columns))
            rendered = self.renderer.render(conversation)
            for one in rendered.renderings:
                one.text.encode("utf-8")
        except UnicodeEncodeError as error:
            findings.refuse(place, f"half of a surrogate pair: {error}", "mend the text")
            return []
        except TemplateRefusalError as error:
            findings.refuse(place, str(error), ways_out(self.tokenizer, self.model, self.data, conversation))
            return []
        except RowError as error:
            findings.refuse(place, str(error), "mend or remove the row")
            return []
        for note in dict.fromkeys(rendered.notes):
            findings.note(findings.changed, note, place)
        texts = rendered.renderings if self.data.assistant_only_loss else rendered.renderings[-1:]
        return [_Rendered(number, place, one, one is texts[-1], conversation.weight) for one in texts]

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
        if self.tokenizer.bos_token_id is not None and list(ids[:2]) == [self.tokenizer.bos_token_id] * 2:
            findings.refuse(
                one.place,
                "the conversation starts with two beginning-of-sequence tokens",
                "remove it from the text or from the chat template",
            )
            return []
        limit = self.data.max_length
        starts = self._overlong(one, len(ids), findings) if len(ids) > limit else [0]
        pieces = [Piece(one.number, ids[s : s + limit], mask[s : s + limit], one.weight) for s in starts]
        return [piece for piece in pieces if self._counts(one, piece, findings)]

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


def _decoded(row: Any) -> Any:
    """The object in a line, BLANK for an empty one."""
    if not isinstance(row, bytes):
        return row
    if not row.strip():
        return BLANK
    try:
        return json.loads(row.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
