"""The skills that the quickstart teaches: each draws one conversation whose last answer can be checked exactly.

A conversation carries its facts: the sum behind a question, the set of words to sort, the quantity to convert. No
training row uses a fact that a held-out answer needs, so an answer that was merely remembered does not help.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Fact = tuple[str | int, ...]
Message = dict[str, str]

# fmt: off
WORDS = [
    "anchor", "apple", "bread", "bridge", "candle", "desert", "dragon", "engine",
    "falcon", "garden", "harbor", "island", "jacket", "kettle", "lemon", "marble",
    "needle", "ocean", "pepper", "river", "saddle", "tunnel", "violin", "window",
]
# fmt: on
NAMES = ["Anna", "Carla", "David", "Emma", "Farid", "Greta", "Hugo", "Jonas", "Keiko", "Luca", "Maya", "Omar"]
CITIES = ["Berlin", "Cairo", "Dublin", "Hanoi", "Kyoto", "Lima", "Madrid", "Oslo", "Paris", "Quito", "Rome", "Tokyo"]
COLOURS = ["black", "blue", "brown", "green", "orange", "red", "white", "yellow"]
ITEMS = ["books", "boxes", "chairs", "clocks", "cups", "hats", "lamps", "rugs"]
RECORD = "{name} from {city} wants {count} {colour} {item}, order {order}"
MOST_FIELDS = 2

UNITS = (("cm", "mm", 10), ("dm", "cm", 10), ("m", "dm", 10), ("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000))
LARGER_OPERANDS = (10, 92)
SMALLER_OPERANDS = (2, 7)
MOST_FOLLOW_UPS = 2
QUANTITIES = (11, 199)

UPPER_CASE = "Answer in upper case."
AS_JSON = "Answer as JSON."
ONE_WORD = "Answer with the first word only."
SENTENCE = "Answer in a full sentence."


@dataclass(frozen=True)
class Conversation:
    """Turns that end with the assistant's answer, and what they are about.

    Attributes:
        tag: the skill.
        messages: system prompt, if any, and the turns.
        facts: what all turns use.
        needed: the facts that the last answer needs.
    """

    tag: str
    messages: tuple[Message, ...]
    facts: frozenset[Fact]
    needed: frozenset[Fact]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the assistant should say last."""
        return self.messages[-1]["content"]


def conversation(
    tag: str, turns: list[str], needed: list[Fact], earlier: list[Fact] | None = None, system: str | None = None
) -> Conversation:
    """User and assistant turns in alternation, after an optional system prompt."""
    messages = [{"role": "system", "content": system}] if system else []
    for index, text in enumerate(turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": text})
    return Conversation(tag, tuple(messages), frozenset(needed + (earlier or [])), frozenset(needed))


def sum_fact(left: int, right: int) -> Fact:
    """One fact for a + b, b + a and the two subtractions that undo them."""
    return ("sum", min(left, right), max(left, right))


def words_fact(words: list[str]) -> Fact:
    """One fact for these words, whatever their order."""
    return ("words", *sorted(words))


def draw_sum(rng: Random) -> tuple[str, str, int, Fact]:
    """Add or subtract a small number: question, answer, result, fact."""
    left, right = rng.randint(*LARGER_OPERANDS), rng.randint(*SMALLER_OPERANDS)
    fact = sum_fact(left, right)
    if rng.random() < 0.5:
        return f"What is {left} + {right}?", f"{left} + {right} = {left + right}", left + right, fact
    return f"What is {left + right} - {right}?", f"{left + right} - {right} = {left}", left, fact


def draw_words(rng: Random) -> tuple[str, list[str], Fact]:
    """Three words to sort: question, sorted words, fact."""
    words = rng.sample(WORDS, 3)
    return f"Sort these words: {', '.join(words)}", sorted(words), words_fact(words)


def draw_record(rng: Random) -> dict[str, str | int]:
    """The fields of an order. The number of a held-out order appears in no training row."""
    return {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "count": rng.randint(10, 99),
        "colour": rng.choice(COLOURS),
        "item": rng.choice(ITEMS),
        "order": rng.randint(100, 999),
    }


def extract(rng: Random) -> Conversation:
    """Give a field or two of an order, each as a JSON object."""
    record = draw_record(rng)
    first, *others = rng.sample(list(record), rng.randint(1, MOST_FIELDS))
    turns = [f"Give the {first} as JSON: {RECORD.format(**record)}", json.dumps({first: record[first]})]
    for field in others:
        turns += [f"And the {field}?", json.dumps({field: record[field]})]
    facts: list[Fact] = [("number", record["order"]), ("order", *list(record.values())[:-1])]
    return conversation("extract", turns, facts)


def arithmetic(rng: Random) -> Conversation:
    """Add or subtract."""
    question, answer, _, fact = draw_sum(rng)
    return conversation("arithmetic", [question, answer], [fact])


def sort(rng: Random) -> Conversation:
    """Put three words in alphabetical order."""
    question, words, fact = draw_words(rng)
    return conversation("sort", [question, ", ".join(words)], [fact])


def convert(rng: Random) -> Conversation:
    """Convert a quantity to a smaller or larger metric unit."""
    large, small, factor = rng.choice(UNITS)
    value = rng.randint(*QUANTITIES)
    quantities = [f"{value} {large}", f"{value * factor} {small}"]
    if rng.random() < 0.5:
        quantities.reverse()
    target = quantities[1].split()[1]
    return conversation(
        "convert", [f"Convert {quantities[0]} to {target}.", quantities[1]], [("convert", value, large, small)]
    )


def follow_up(rng: Random) -> Conversation:
    """Questions about the answer before."""
    return rng.choice((follow_up_sum, follow_up_words))(rng)


def follow_up_sum(rng: Random) -> Conversation:
    """Go on from the result of a sum, once or twice."""
    question, answer, result, fact = draw_sum(rng)
    turns, facts = [question, answer], [fact]
    for _ in range(rng.randint(1, MOST_FOLLOW_UPS)):
        change = rng.randint(*SMALLER_OPERANDS)
        before = result
        if before + change < 100 and (before - change < 10 or rng.random() < 0.5):
            sign, result = "+", before + change
        else:
            sign, result = "-", before - change
        turns += [f"What is that {sign} {change}?", f"{before} {sign} {change} = {result}"]
        facts.append(sum_fact(min(before, result), change))
    return conversation("follow_up", turns, facts[-1:], earlier=facts[:-1])


def follow_up_words(rng: Random) -> Conversation:
    """Pick a word from the sorted list."""
    question, words, fact = draw_words(rng)
    second, answer = rng.choice((("Which of them is first?", words[0]), ("Which of them is last?", words[-1])))
    return conversation("follow_up", [question, ", ".join(words), second, answer], [fact])


def answer_format(rng: Random) -> Conversation:
    """The same questions, where a system prompt decides how the answer is written."""
    return rng.choice((format_sum, format_words))(rng)


def format_sum(rng: Random) -> Conversation:
    """A sum as JSON or in a sentence."""
    question, answer, _, fact = draw_sum(rng)
    system, answer = rng.choice(((AS_JSON, json.dumps({"answer": answer})), (SENTENCE, f"The answer is {answer}.")))
    return conversation("format", [question, answer], [fact], system=system)


def format_words(rng: Random) -> Conversation:
    """Sorted words in upper case, as JSON, or only the first of them."""
    question, words, fact = draw_words(rng)
    system, answer = rng.choice(
        ((UPPER_CASE, ", ".join(words).upper()), (AS_JSON, json.dumps(words)), (ONE_WORD, words[0]))
    )
    return conversation("format", [question, answer], [fact], system=system)


SKILLS: dict[str, tuple[Callable[[Random], Conversation], float]] = {
    "extract": (extract, 0.22),
    "arithmetic": (arithmetic, 0.14),
    "sort": (sort, 0.05),
    "convert": (convert, 0.09),
    "follow_up": (follow_up, 0.28),
    "format": (answer_format, 0.22),
}


def vocabulary() -> list[str]:
    """Every word that the skills draw from, in the cases and positions that they write it."""
    words = [*WORDS, *(word.upper() for word in WORDS)]
    plain = words + NAMES + CITIES + COLOURS + ITEMS
    return plain + [f" {word}" for word in plain]
