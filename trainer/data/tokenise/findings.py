"""What became of rows: counted in each chunk, summed to the preflight report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rundir.quantities import count
from trainer.errors import UserError

EXAMPLES_KEPT = 5
BAD_ROWS_SHOWN = 10
MOST_REASONS = 100
OTHERS = "others"
"""What is counted together beyond so many reasons: keys of rows may be names of anything."""
SUMS = ("rows", "kept", "tokens", "supervised_tokens", "lost_tokens", "repeated_tokens", "stop_trained", "bad_rows")
COUNTERS = ("dropped", "changed", "found", "ignored")


@dataclass
class Findings:
    """Counts of a chunk, of a source, or of a split.

    Attributes:
        rows, kept: rows read; conversations, or pieces of them, to train on.
        tokens, supervised_tokens: in what is kept.
        lost_tokens: in conversations that were longer than `max_length`.
        longest: tokens of the longest conversation, kept or not.
        repeated_tokens: in further renderings of conversations that the template makes over from turn to turn.
        stop_trained: kept conversations in which a stop token is supervised.
        dropped, changed: rows that are not trained on, or not as they stand, by reason.
        found: what looks wrong in rows that are trained on as they stand.
        ignored: keys of rows and messages that have no effect.
        examples: places of the first rows of each reason.
        bad_rows: rows that cannot be used; their preparation fails.
        bad: place, message and remedy of the first of them.
    """

    rows: int = 0
    kept: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    lost_tokens: int = 0
    longest: int = 0
    repeated_tokens: int = 0
    stop_trained: int = 0
    bad_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    bad: list[list[str]] = field(default_factory=list)

    def note(self, counter: Counter[str], reason: str, place: str) -> None:
        """Count `reason`, and keep the first few places where it was seen."""
        reason = reason if reason in counter or len(counter) < MOST_REASONS else OTHERS
        counter[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(place)

    def note_all(self, counter: Counter[str], reasons: Iterable[str], place: str) -> None:
        """Count each of `reasons` once."""
        for reason in dict.fromkeys(reasons):
            self.note(counter, reason, place)

    def refuse(self, place: str, message: str, remedy: str) -> None:
        """Remember a row that cannot be used; the others are still looked at, so that all are named at once."""
        self.bad_rows += 1
        if len(self.bad) < BAD_ROWS_SHOWN:
            self.bad.append([place, message, remedy])

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), **{name: dict(getattr(self, name)) for name in COUNTERS}}

    def add(self, part: dict[str, Any]) -> None:
        """Add what another chunk found, as `as_json` gave it; older ones know fewer counts."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + part.get(name, 0))
        self.longest = max(self.longest, part.get("longest", 0))
        for name in COUNTERS:
            getattr(self, name).update(part.get(name, {}))
        for reason, places in part["examples"].items():
            self.examples[reason] = (self.examples.get(reason, []) + places)[:EXAMPLES_KEPT]
        self.bad = (self.bad + part.get("bad", []))[:BAD_ROWS_SHOWN]

    def raise_if_bad(self) -> None:
        """Raises:
        UserError: rows cannot be used: one, or the first of many with their number.
        """
        if not self.bad_rows:
            return
        place, message, remedy = self.bad[0]
        if self.bad_rows == 1:
            raise UserError(message, where=place, remedy=remedy)
        lines = [f"{where}: {what}" for where, what, _ in self.bad]
        more = self.bad_rows - len(lines)
        lines += [f"and {more} more"] if more else []
        remedies = list(dict.fromkeys(remedy for *_, remedy in self.bad if remedy))
        raise UserError(
            f"{count(self.bad_rows, 'row')} cannot be used:\n  " + "\n  ".join(lines), remedy="; ".join(remedies)
        )
