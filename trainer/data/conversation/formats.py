"""Recognises how a row holds its conversation and turns it into messages.

Known: messages (OpenAI, ChatML), ShareGPT, Alpaca and Dolly, prompts with completions or responses, questions with
answers, the chosen side of preference rows, plain text. A format is recognised by its keys that are not null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.data.conversation.messages import UNDERSTOOD, Message, message_of, speaker_of, turns_of
from trainer.data.conversation.tool_calls import Tool, tools_of
from trainer.data.read.row_values import parsed
from trainer.errors import RowError

__all__ = ["OF_MESSAGES", "Conversation", "RowError", "mapped", "to_conversation"]

Row = dict[str, Any]
Turns = list[Any]

LARGEST_WEIGHT = 1e9
OF_MESSAGES = "messages: "
"""What keys of messages begin with where a conversation names keys that have no effect."""
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("completion", "response", "output")
INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
SPOKEN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Conversation:
    """One training example.

    Attributes:
        messages: in order.
        tools: on offer.
        weight: of the row in the loss.
        wanted: whether the answer is one to learn; unpaired preference rows have others too.
        text: plain text to learn whole, without a chat template; there are no messages then.
        ignored: keys of the row and of its messages that have no effect.
    """

    messages: list[Message]
    tools: list[Tool] | None = None
    weight: float = 1.0
    text: str | None = None
    ignored: tuple[str, ...] = ()
    wanted: bool = True


@dataclass(frozen=True)
class _Format:
    """One way to write a conversation.

    Attributes:
        needed: keys, or groups of which one must be there.
        optional: further keys that it reads.
        convert: its turns, from the row.
        rank: a format counts only where none of a lower rank fits.
    """

    name: str
    needed: tuple[tuple[str, ...], ...]
    convert: Callable[[Row], Turns]
    optional: tuple[str, ...] = ()
    rank: int = 0

    def keys_in(self, keys: Set[str]) -> set[str]:
        """Those of a row's keys that it reads; none where it does not fit."""
        if not all(any(key in keys for key in group) for group in self.needed):
            return set()
        return {key for group in (*self.needed, self.optional) for key in group if key in keys}


def mapped(row: object, columns: dict[str, str | None]) -> object:
    """The row with the columns that the job file names under the names that formats know.

    Raises:
        RowError: the row lacks such a column.
    """
    if not columns or not isinstance(row, dict):
        return row
    wanted = [column for column in columns.values() if column is not None]
    missing = [column for column in wanted if column not in row]
    if missing:
        raise RowError(f"no column {missing[0]!r}, which `columns` names; the row has {sorted(row)}")
    rest = {key: value for key, value in row.items() if key not in columns and key not in wanted}
    return rest | {name: row[column] for name, column in columns.items() if column is not None}


def to_conversation(row: object) -> Conversation:
    """The conversation in a row of any known format.

    Raises:
        RowError: the row is no object, its format is unknown or unclear, or a part of it is malformed.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, this is {type(row).__name__}")
    filled = {_printable(key): value for key, value in row.items() if value is not None}
    weight = _weight(filled.pop("weight", None))
    tools = tools_of(_first_filled(filled, TOOLS))
    fitting = _fitting(frozenset(filled), frozenset(key for key, value in filled.items() if value))
    if not fitting:
        raise RowError(f"unknown format, the keys are {sorted(filled)}; known formats have: {_known()}")
    first, *others = fitting
    turns = first.convert(filled)
    for other in others:
        if _messages(other.convert(filled), tools) != _messages(turns, tools):
            raise RowError(
                f"the row can be read as {first.name} and as {other.name}, and they differ; name the columns to read "
                "under `columns` of the source"
            )
    ignored = filled.keys() - first.keys_in(filled.keys())
    if first.name == "text":
        return Conversation([], None, weight, _plain_text(filled), tuple(sorted(ignored)))
    ignored -= set(TOOLS)
    messages = [message_of(turn, at, tools) for at, turn in enumerate(_with_system(filled, turns))]
    ignored |= {f"{OF_MESSAGES}{key}" for _, keys in messages for key in keys}
    ignored |= {f"{OF_MESSAGES}{_printable(key)}" for message, _ in messages for key in message.keys() - UNDERSTOOD}
    judged = first.keys_in(filled.keys()) & {*JUDGEMENTS}
    ignored |= {key for key in judged if not isinstance(filled[key], bool)}
    wanted = not any(filled[key] is False for key in judged)
    return Conversation([message for message, _ in messages], tools, weight, None, tuple(sorted(ignored)), wanted)


def _printable(key: object) -> str:
    return str(key).encode("utf-8", "replace").decode()


def _messages(turns: Turns, tools: list[Tool] | None) -> list[Message]:
    return [message_of(turn, at, tools)[0] for at, turn in enumerate(turns)]


@lru_cache(1024)
def _fitting(keys: frozenset[str], full: frozenset[str]) -> list[_Format]:
    """Formats that fit, without those whose columns are all empty, and those that read only a part of another's.

    Args:
        keys: of a row, those that are not null.
        full: those of them that are not empty.
    """
    fits = [form for form in _FORMATS if form.keys_in(keys)]
    fits = [form for form in fits if any(key in full for group in form.needed for key in group)] or fits
    fits = [form for form in fits if form.rank == min(form.rank for form in fits)]
    return [form for form in fits if not any(form.keys_in(keys) < other.keys_in(keys) for other in fits)]


def _known() -> str:
    return "; ".join(" + ".join(" or ".join(group) for group in form.needed) for form in _FORMATS)


def _first_filled(row: Row, names: tuple[str, ...]) -> Any:
    """The one value among the columns `names`."""
    given = [name for name in names if row.get(name) not in (None, "", [])]
    given = given or [name for name in names if name in row]
    if len(given) > 1 and row[given[0]] != row[given[1]]:
        raise RowError(f"`{given[0]}` and `{given[1]}` are both filled, and they differ")
    return row[given[0]] if given else None


def _with_system(row: Row, turns: Turns) -> Turns:
    system = _first_filled(row, SYSTEMS)
    if not system:
        return turns
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    if "system" in (first.get("role"), first.get("from")):
        if system not in (first.get("content"), first.get("value")):
            raise RowError("the row has a `system` text, and its messages begin with another one")
        return turns
    return [{"role": "system", "content": system}, *turns]


def _from_messages(row: Row) -> Turns:
    return turns_of(row["messages"], "messages")


def _from_conversations(row: Row) -> Turns:
    key = "conversations" if "conversations" in row else "conversation"
    return turns_of(row[key], key)


def _from_prompt(
    row: Row,
    prompts: tuple[str, ...] = ("prompt",),
    answers: tuple[str, ...] = ANSWERS,
    inputs: tuple[str, ...] = INPUTS,
) -> Turns:
    """A question with its answer, each text or messages, after earlier exchanges if there are any."""
    prompt, answer, more = (_first_filled(row, names) for names in (prompts, answers, inputs))
    if more and isinstance(prompt, str):
        prompt = [{"role": "user", "content": f"{prompt}\n\n{more}", "alpaca_input": more}]
    return _history(row.get("history")) + _said(prompt, "user") + _said(answer, "assistant")


def _said(value: Any, role: str) -> Turns:
    if isinstance(value, dict) or (isinstance(value, list) and value and all(_is_turn(turn) for turn in value)):
        return turns_of(value, role)
    return [{"role": role, "content": value}]


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _history(value: Any) -> Turns:
    value = parsed(value, "`history`") if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    if not value:
        return []
    if isinstance(value, list) and all(_is_turn(turn) for turn in value):
        return value
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise RowError("`history` must be a list of [question, answer] pairs, or of messages")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]


def _from_chosen(row: Row) -> Turns:
    """The better answer of a preference row, after its prompt unless it holds the whole conversation itself."""
    chosen = row["chosen"]
    if isinstance(chosen, str) and SPOKEN.match(chosen):
        return _from_transcript(chosen)
    answer = _said(chosen, "assistant")
    if len(answer) > 1 and speaker_of(answer[0]) != "assistant":
        return answer
    if "conversations" in row:
        return _from_conversations(row) + answer
    prompts = PROMPTS if any(key in row for key in PROMPTS) else ("input",)
    return _from_prompt({**row, "chosen": answer}, prompts, ("chosen",), INPUTS if prompts is PROMPTS else ("context",))


def _from_transcript(text: str) -> Turns:
    """`Human:` and `Assistant:` in one text, as the HH preference sets have it."""
    _, *parts = SPOKEN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _from_text(row: Row) -> Turns:
    return [row["text"]]


def _plain_text(row: Row) -> str:
    if not isinstance(row["text"], str):
        raise RowError(f"unknown format: `text` must be text, this is {type(row['text']).__name__}")
    return row["text"]


def _weight(value: object) -> float:
    number = _number(value) if isinstance(value, str) and value else value
    if number in (None, ""):
        return 1.0
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= LARGEST_WEIGHT:
        raise RowError(f"`weight` must be a number from 0 to {LARGEST_WEIGHT:g}, this is {str(value)[:40]}")
    return float(number)


def _number(text: str) -> float | None:
    """A number that a CSV file holds as text."""
    try:
        return float(text)
    except ValueError:
        raise RowError(f"`weight` must be a number from 0 to {LARGEST_WEIGHT:g}, this is {text[:40]!r}") from None


JUDGEMENTS = ("label", "kto_tag")
"""Columns of unpaired preference rows: false where the answer is not wanted."""
FLAT = (*INPUTS, "history", *SYSTEMS)
_FORMATS = [
    _Format("messages", (("messages",),), _from_messages, SYSTEMS),
    _Format("conversations", (("conversations", "conversation"),), _from_conversations, SYSTEMS),
    _Format(
        "instruction and answer", (("instruction",), ANSWERS), lambda row: _from_prompt(row, ("instruction",)), FLAT
    ),
    _Format("prompt and answer", (("prompt",), ("completion", "response")), _from_prompt, (*FLAT, *JUDGEMENTS)),
    _Format("preference", (("chosen",),), _from_chosen, ("conversations", *PROMPTS, *FLAT)),
    _Format(
        "question and answer",
        ((*PROMPTS, "problem"), (*ANSWERS, "answer", "solution")),
        lambda row: _from_prompt(row, (*PROMPTS, "problem"), (*ANSWERS, "answer", "solution")),
        FLAT,
        rank=1,
    ),
    _Format(
        "input and output",
        (("input",), ("output",)),
        lambda row: _from_prompt(row, ("input",), ("output",), ("context",)),
        FLAT,
        rank=1,
    ),
    _Format("text", (("text",),), _from_text, rank=2),
]
