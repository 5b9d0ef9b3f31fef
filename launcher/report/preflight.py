"""Lay out the preflight report of a run's data as tables: counts, findings with an example, sources, warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FINDINGS = {"dropped": "dropped: ", "changed": "changed: ", "found": "", "ignored": "ignored key: "}
"""Counters of a split's report whose entries have examples, each with the prefix that is shown."""

RARE = ("repeated tokens", "bad rows")
"""Counts that are shown only if they are not zero."""


def preflight_table(preflight: dict[str, Any]) -> dict[str, Any] | None:
    """Counts of the data: one column for each split, one row for each count."""
    columns = {split: dict(_flat(found)) for split, found in _splits(preflight)}
    if not columns:
        return None
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    names = [name for name in names if name not in RARE or any(found.get(name) for found in columns.values())]
    rows = [(name, [_cell(found.get(name)) for found in columns.values()]) for name in names]
    return {"splits": list(columns), "rows": rows}


def preflight_findings(preflight: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was found in rows, by split: what, in how many, and the place of the first."""
    several = len(list(_splits(preflight))) > 1
    return [
        (f"{split}: {what}" if several else what, count, place)
        for split, report in _splits(preflight)
        for what, count, place in _findings_of(report)
    ]


def _findings_of(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for counter, prefix in FINDINGS.items():
        for reason, count in sorted((report.get(counter) or {}).items(), key=lambda item: -item[1]):
            yield f"{prefix}{reason}", _cell(count), _first_place(report, reason)
    copies = (report.get("copies") or {}).get("conversations")
    for reason, count in (("copies", copies), ("also in train", report.get("also_in_train"))):
        if count:
            yield reason, _cell(count), _first_place(report, reason)


def _first_place(report: dict[str, Any], reason: str) -> str:
    places = (report.get("examples") or {}).get(reason) or [""]
    return str(places[0])


def preflight_sources(preflight: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows, tokens and lost share of every source."""
    return [
        (str(source["path"]), _cell(source["rows"]), _cell(source["tokens"]), f"{source['lost_share']:.1%}")
        for _, report in _splits(preflight)
        for source in report.get("sources") or []
    ]


def preflight_warnings(preflight: dict[str, Any]) -> list[tuple[str, str]]:
    """Split and text of every warning."""
    return [(split, str(warning)) for split, report in _splits(preflight) for warning in report.get("warnings") or []]


def _splits(preflight: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((split, found) for split, found in preflight.items() if isinstance(found, dict))


def _flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, dict) and name not in (*FINDINGS, "examples"):
            yield from _flat(value, f"{prefix}{name}: ".replace("_", " "))
        elif isinstance(value, int | float | str):
            yield f"{prefix}{name}".replace("_", " "), value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
