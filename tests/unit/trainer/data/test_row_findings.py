"""Counts of what became of rows, and how many broken ones are named."""

from __future__ import annotations

import json

import pytest

from trainer.data.tokenise.findings import BAD_ROWS_SHOWN, EXAMPLES_KEPT, MOST_REASONS, OTHERS, Findings
from trainer.errors import UserError


def test_reasons_are_counted_with_the_first_places() -> None:
    found = Findings()
    for row in range(9):
        found.note(found.dropped, "blank line", f"a.jsonl:{row}")
    assert found.dropped == {"blank line": 9}
    assert found.examples["blank line"] == [f"a.jsonl:{row}" for row in range(EXAMPLES_KEPT)]


def test_a_reason_that_one_row_gives_twice_counts_once() -> None:
    found = Findings()
    found.note_all(found.found, ["NUL characters", "NUL characters", "no answer"], "a.jsonl:1")
    assert found.found == {"NUL characters": 1, "no answer": 1}


def test_names_of_anything_are_counted_together_beyond_a_limit() -> None:
    found = Findings()
    for number in range(MOST_REASONS + 50):
        found.note(found.ignored, f"key {number}", "a.jsonl:1")
    found.note(found.ignored, "key 0", "a.jsonl:2")
    assert len(found.ignored) == MOST_REASONS + 1
    assert (found.ignored[OTHERS], found.ignored["key 0"]) == (50, 2)


def test_chunks_add_up_to_what_one_chunk_would_have_found() -> None:
    parts, whole = [Findings(), Findings()], Findings()
    for number, part in enumerate(parts):
        for target in (part, whole):
            target.rows += 10
            target.tokens += 100
            target.longest = max(target.longest, 7 + number)
            target.note(target.changed, "truncated", f"{number}.jsonl:1")
            target.refuse(f"{number}.jsonl:2", "broken", "mend it")
    total = Findings()
    for part in parts:
        total.add(json.loads(json.dumps(part.as_json())))
    assert total.as_json() == whole.as_json()


def test_what_an_older_version_counted_is_added_too() -> None:
    total = Findings()
    total.add({"rows": 3, "kept": 2, "dropped": {"blank line": 1}, "examples": {}})
    assert (total.rows, total.kept, total.longest, total.bad_rows) == (3, 2, 0, 0)
    assert total.dropped == {"blank line": 1}


@pytest.mark.parametrize(
    ("bad", "lines"),
    [(1, ["a.jsonl:0: broken"]), (3, ["3 rows cannot be used", "a.jsonl:2: broken"]), (12, ["12 rows", "and 2 more"])],
)
def test_rows_that_cannot_be_used_are_named_at_once(bad: int, lines: list[str]) -> None:
    found = Findings()
    found.raise_if_bad()
    for number in range(bad):
        found.refuse(f"a.jsonl:{number}", "broken", "mend it")
    with pytest.raises(UserError) as raised:
        found.raise_if_bad()
    assert all(line in str(raised.value) for line in lines)
    assert str(raised.value).count("a.jsonl") == min(bad, BAD_ROWS_SHOWN)
    assert str(raised.value).count("mend it") == 1
