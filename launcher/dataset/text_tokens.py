"""Estimate how many tokens a job's data has from its text, without a tokenizer."""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.dataset.files import UnreadableError, data_files, sample_files, sample_rows
from launcher.dataset.size import DatasetSize, combined_size, unknown_size
from launcher.jobfile.schema import JobFile

USUAL_VOCABULARY = 131_072
BYTE_VOCABULARY = 512
"""Vocabularies up to this size are those of byte-level tokenizers: one token per byte of text."""
TURN_TOKENS = 6
"""Tokens that a chat template adds to a turn, mostly special tokens."""
TURN_BYTES = 8
"""Bytes of text that a chat template adds to a turn beside those: role names and newlines."""
IDEOGRAPHS = re.compile("[\\u3040-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7af\\uf900-\\ufaff\\U00020000-\\U0003ffff]")
TOKENS_PER_IDEOGRAPH = 0.85
CHARACTERS_PER_TOKEN_NOT_LATIN = 2.4
"""For Cyrillic, Greek, Arabic and other alphabets."""
CONVERSATION_COLUMNS = (
    (("messages",), ()),
    (("conversations",), ("system",)),
    (("chosen",), ("prompt", "system")),
    (
        ("prompt", "instruction", "question", "query", "completion", "response", "output", "answer"),
        ("input", "context", "system", "system_prompt", "history"),
    ),
    (("text",), ()),
)
"""Columns that hold the conversation, as (columns that identify the format, further columns with text), tried in order.

Other columns of such a row are not part of the conversation.
"""
TOOL_COLUMNS = ("tools", "functions")
KEYS_WITHOUT_TEXT = ("role", "from", "id", "name", "source")


def estimate_size(job: JobFile, vocabulary: int = USUAL_VOCABULARY) -> DatasetSize:
    """Estimate the size of a job's training data from its text.

    Args:
        job: The job file, its paths absolute.
        vocabulary: Number of tokens in the tokenizer's vocabulary.

    Returns:
        The estimate; an unknown size with the reason when a file is missing or unreadable or has no text.
    """
    parts: list[tuple[Counter[int], float]] = []
    for source in job.data.train:
        files = data_files(source.path)
        if not files:
            return unknown_size(f"there are no data files in {source.path}")
        files, files_scale = sample_files(files)
        columns = tuple(source.columns.items())
        for file in files:
            try:
                lengths, scale = _file_lengths(str(file), *_size_and_mtime(file), columns, vocabulary)
            except UnreadableError as error:
                return unknown_size(str(error))
            usable = apply_overlong(lengths, job.data.max_length, job.data.overlong)
            parts.append((usable, scale * files_scale * source.weight))
    train_share = 1 - job.data.eval.split
    method = f"estimated from the text of the data, about {characters_per_token(vocabulary):.1f} characters a token"
    size = combined_size([(lengths, times * train_share) for lengths, times in parts], method, is_exact=False)
    return size if size.tokens else unknown_size("the data has no text, or only conversations beyond data.max_length")


def apply_overlong(lengths: tuple[int, ...], max_length: int, overlong: str) -> Counter[int]:
    """Return the lengths that remain after `data.overlong`, each with its number of conversations."""
    remaining: Counter[int] = Counter()
    for tokens in lengths:
        if tokens <= max_length:
            remaining[tokens] += 1
        elif overlong == "split":
            remaining[max_length] += tokens // max_length
            remaining[tokens % max_length] += 1
        elif overlong == "truncate":
            remaining[max_length] += 1
    del remaining[0]
    return remaining


def row_tokens(row: Any, vocabulary: int = USUAL_VOCABULARY) -> int:
    """Estimate the tokens of the conversation in a row; 0 when it has no text."""
    turns = [turn for turn in _conversation_texts(row) if turn]
    template_tokens = TURN_TOKENS + (TURN_BYTES if vocabulary <= BYTE_VOCABULARY else 0)
    return math.ceil(sum(text_tokens(turn, vocabulary) for turn in turns) + template_tokens * len(turns))


def text_tokens(text: str, vocabulary: int = USUAL_VOCABULARY) -> float:
    """Estimate the tokens of a text."""
    if vocabulary <= BYTE_VOCABULARY:
        return float(len(text.encode("utf-8", "replace")))
    per_token = characters_per_token(vocabulary)
    if text.isascii():
        return len(text) / per_token
    ideographs = len(IDEOGRAPHS.findall(text))
    ascii_characters = len(text.encode("ascii", "ignore"))
    letters = len(text) - ascii_characters - ideographs
    scale = characters_per_token(USUAL_VOCABULARY) / per_token
    not_latin = ideographs * TOKENS_PER_IDEOGRAPH + letters / CHARACTERS_PER_TOKEN_NOT_LATIN
    return ascii_characters / per_token + scale * not_latin


def characters_per_token(vocabulary: int) -> float:
    """Return the characters per token of English text: 1 when tokens are bytes, 4.5 at 131,072 tokens."""
    if vocabulary <= BYTE_VOCABULARY:
        return 1.0
    return 1.0 + 3.5 * min(1.1, math.log2(vocabulary / 256) / math.log2(USUAL_VOCABULARY / 256))


@functools.lru_cache(maxsize=256)
def _file_lengths(
    file: str, size: int, changed: int, columns: tuple[tuple[str, str | None], ...], vocabulary: int
) -> tuple[tuple[int, ...], float]:
    """Return the tokens of each sampled row of a file, and `Sample.scale`.

    `size` (bytes) and `changed` (ns) only belong to the cache key, so that a changed file is read again.
    """
    sample = sample_rows(Path(file))
    rows = (_rename_columns(row, columns) for row in sample.rows)
    return tuple(tokens for row in rows if (tokens := row_tokens(row, vocabulary))), sample.scale


def _rename_columns(row: Any, columns: tuple[tuple[str, str | None], ...]) -> Any:
    """Return the row with only the columns of `data.train[].columns`, under the names of the format."""
    if not columns or not isinstance(row, dict):
        return row
    return {name: row.get(column) for name, column in columns if column is not None}


def _size_and_mtime(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _conversation_texts(row: Any) -> Iterator[str]:
    """Yield the texts of the conversation in a row, without roles and names."""
    if not isinstance(row, dict):
        yield from _nested_texts(row)
        return
    known = (names + more for names, more in CONVERSATION_COLUMNS if any(row.get(name) for name in names))
    columns = next(known, tuple(row))
    for name in columns:
        yield from _nested_texts(row.get(name), name)
    tools = next((row[name] for name in TOOL_COLUMNS if row.get(name) and name not in columns), None)
    if tools:
        yield tools if isinstance(tools, str) else json.dumps(tools, default=str)


def _nested_texts(value: Any, key: str = "") -> Iterator[str]:
    """Yield the strings in a value of lists and mappings; `key` is the one that holds the value."""
    if isinstance(value, str):
        if key not in KEYS_WITHOUT_TEXT:
            yield value
    elif isinstance(value, dict):
        for inner_key, part in value.items():
            yield from _nested_texts(part, inner_key)
    elif isinstance(value, list):
        for part in value:
            yield from _nested_texts(part)
