"""About how many tokens the text of a job's data has, before any tokenizer has seen it."""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.dataset.amounts import Amounts, combined, no_amounts
from launcher.dataset.files import UnreadableError, data_files, looked_at, sample
from launcher.jobfile.schema import JobFile

USUAL_VOCABULARY = 131_072
BYTES = 512
"""Vocabularies up to this size hold bytes, and hardly anything beside them."""
TURN_TOKENS = 6
"""What a chat template writes around a turn, most of it as special tokens."""
TURN_BYTES = 8
"""What it writes in bytes beyond that: roles and line ends."""
IDEOGRAPHS = re.compile("[\\u3040-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7af\\uf900-\\ufaff\\U00020000-\\U0003ffff]")
TOKENS_PER_IDEOGRAPH = 0.85
CHARACTERS_PER_TOKEN_ELSEWHERE = 2.4
"""Cyrillic, Greek, Arabic and other alphabets."""
FORMATS = (
    (("messages",), ()),
    (("conversations",), ("system",)),
    (("chosen",), ("prompt", "system")),
    (
        ("prompt", "instruction", "question", "query", "completion", "response", "output", "answer"),
        ("input", "context", "system", "system_prompt", "history"),
    ),
    (("text",), ()),
)
"""Columns that hold the conversation, the first group that a row has; others beside them are no text of it."""
TOOLS = ("tools", "functions")
NAMES = ("role", "from", "id", "name", "source")


def estimated(job: JobFile, vocabulary: int = USUAL_VOCABULARY) -> Amounts:
    """The amounts of a job's data, from its text; without rows, and with the reason, where nobody can know.

    Args:
        job: The job file, its paths absolute.
        vocabulary: Tokens that the model's tokenizer knows.
    """
    parts: list[tuple[Counter[int], float]] = []
    for source in job.data.train:
        files = data_files(source.path)
        if not files:
            return no_amounts(f"there are no data files in {source.path}")
        files, more = looked_at(files)
        columns = tuple(source.columns.items())
        for file in files:
            try:
                lengths, times = _file_lengths(str(file), *_stamp(file), columns, vocabulary)
            except UnreadableError as error:
                return no_amounts(str(error))
            parts.append((kept(lengths, job.data.max_length, job.data.overlong), times * more * source.weight))
    train = 1 - job.data.eval.split
    found = combined([(lengths, times * train) for lengths, times in parts], source_of(vocabulary), is_exact=False)
    return found if found.tokens else no_amounts("the data has no text, or only conversations beyond data.max_length")


def source_of(vocabulary: int) -> str:
    """How an estimate was made, in words."""
    return f"estimated from the text of the data, about {characters_per_token(vocabulary):.1f} characters a token"


def kept(lengths: tuple[int, ...], longest: int, overlong: str) -> Counter[int]:
    """What is left of conversations under `data.overlong`."""
    left: Counter[int] = Counter()
    for tokens in lengths:
        if tokens <= longest:
            left[tokens] += 1
        elif overlong == "split":
            left[longest] += tokens // longest
            left[tokens % longest] += 1
        elif overlong == "truncate":
            left[longest] += 1
    del left[0]
    return left


def row_tokens(row: Any, vocabulary: int = USUAL_VOCABULARY) -> int:
    """About how many tokens the conversation in a row has; 0 where it has no text."""
    turns = [turn for turn in _texts(row) if turn]
    around = TURN_TOKENS + (TURN_BYTES if vocabulary <= BYTES else 0)
    return math.ceil(sum(text_tokens(turn, vocabulary) for turn in turns) + around * len(turns))


def text_tokens(text: str, vocabulary: int = USUAL_VOCABULARY) -> float:
    """About how many tokens a text has."""
    if vocabulary <= BYTES:
        return float(len(text.encode("utf-8", "replace")))
    each = characters_per_token(vocabulary)
    if text.isascii():
        return len(text) / each
    ideographs = len(IDEOGRAPHS.findall(text))
    plain = len(text.encode("ascii", "ignore"))
    letters = len(text) - plain - ideographs
    scale = characters_per_token(USUAL_VOCABULARY) / each
    return plain / each + scale * (ideographs * TOKENS_PER_IDEOGRAPH + letters / CHARACTERS_PER_TOKEN_ELSEWHERE)


def characters_per_token(vocabulary: int) -> float:
    """Characters of a token in English text: 1 where tokens are bytes, 4.5 at 131,072 tokens."""
    if vocabulary <= BYTES:
        return 1.0
    return 1.0 + 3.5 * min(1.1, math.log2(vocabulary / 256) / math.log2(USUAL_VOCABULARY / 256))


@functools.lru_cache(maxsize=256)
def _file_lengths(
    file: str, size: int, changed: int, columns: tuple[tuple[str, str | None], ...], vocabulary: int
) -> tuple[tuple[int, ...], float]:
    """Tokens of some rows of a file, and how many times as many there are; size and time tell a new file."""
    taken = sample(Path(file))
    rows = (_mapped(row, columns) for row in taken.rows)
    return tuple(tokens for row in rows if (tokens := row_tokens(row, vocabulary))), taken.times


def _mapped(row: Any, columns: tuple[tuple[str, str | None], ...]) -> Any:
    """A row with the columns that the job file names under the names that formats know, and no others."""
    if not columns or not isinstance(row, dict):
        return row
    return {name: row.get(column) for name, column in columns if column is not None}


def _stamp(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _texts(row: Any) -> Iterator[str]:
    """Every text of the conversation in a row but roles and names."""
    if not isinstance(row, dict):
        yield from _within(row)
        return
    known = (names + more for names, more in FORMATS if any(row.get(name) for name in names))
    columns = next(known, tuple(row))
    for name in columns:
        yield from _within(row.get(name), name)
    tools = next((row[name] for name in TOOLS if row.get(name) and name not in columns), None)
    if tools:
        yield tools if isinstance(tools, str) else json.dumps(tools, default=str)


def _within(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if name not in NAMES:
            yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _within(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _within(part)
