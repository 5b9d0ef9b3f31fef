"""The preflight report as people read it: nothing that was counted is left out, warnings stand at the end."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from launcher.cli._output import print_preflight

REPORT: dict[str, Any] = {
    "train": {
        "rows": 1200,
        "kept": 1190,
        "lost_tokens": 5000,
        "dropped": {"longer than 512 tokens": 10},
        "changed": {},
        "found": {"empty answer [/x]": 3},
        "ignored": {"age": 1200},
        "examples": {
            "longer than 512 tokens": ["a.jsonl:7", "a.jsonl:9"],
            "age": ["a.jsonl:1"],
            "copies": ["b.jsonl:4"],
        },
        "copies": {"conversations": 4, "across sources": 1},
        "sources": [
            {"path": "a.jsonl", "rows": 1000, "tokens": 10000, "lost_share": 0.0},
            {"path": "b.jsonl", "rows": 200, "tokens": 5000, "lost_share": 0.5},
        ],
        "files": [["a.jsonl", 1000], ["b.jsonl", 200]],
        "warnings": ["50% of the tokens of b.jsonl are lost"],
    },
    "eval": {"rows": 10, "kept": 10, "also_in_train": 2, "dropped": {}, "warnings": []},
}


def printed(report: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    print_preflight(report, Console(file=out, width=100, markup=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_counts_findings_losses_and_warnings_are_printed() -> None:
    lines = printed(REPORT)
    for line in (
        "rows 1,200 10",
        "copies: across sources 1",
        "also in train 2",
        "train: dropped: longer than 512 tokens 10 a.jsonl:7",
        "train: empty answer [/x] 3",
        "train: ignored key: age 1,200 a.jsonl:1",
        "train: copies 4 b.jsonl:4",
        "b.jsonl 200 5,000 50.0%",
    ):
        assert line in lines, line
    assert lines[-1] == "warning: train: 50% of the tokens of b.jsonl are lost"


def test_reports_of_older_versions_are_printed_too() -> None:
    assert "dropped: blank line 2 a:1" in printed(
        {"train": {"rows": 3, "dropped": {"blank line": 2}, "changed": {}, "examples": {"blank line": ["a:1"]}}}
    )
