"""`tuneyard doctor`: what is fit and what is not, on this machine or at a site, each finding with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A failed one stops runs; a warning costs something, or could not be read."""

    name: str
    verdict: str
    words: str
    remedy: str = ""


def ok(name: str, words: str) -> Check:
    """Fit."""
    return Check(name, OK, words)


def warn(name: str, words: str, remedy: str = "") -> Check:
    """Runs work, and something is lost or not known."""
    return Check(name, WARN, words, remedy)


def fail(name: str, words: str, remedy: str) -> Check:
    """Runs will not work."""
    return Check(name, FAIL, words, remedy)


def not_read(name: str, words: str, remedy: str = "") -> Check:
    """Nobody can tell from here: said, and never counted as fit."""
    return Check(name, WARN, f"not read: {words}", remedy)


def report_json(checks: Iterable[Check]) -> dict[str, Any]:
    """All findings, and whether a run can work."""
    listed = list(checks)
    return {"fit": not any(check.verdict == FAIL for check in listed), "checks": [asdict(check) for check in listed]}
