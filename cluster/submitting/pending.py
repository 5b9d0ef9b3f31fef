"""The words for a run that waits, shared by all schedulers: why it waits, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES = ("quota", "resources", "held", "dependency", "priority", "time", "other")
WAIT = "nothing to do: it starts by itself"


@dataclass(frozen=True)
class Explanation:
    """One of CATEGORIES, what it means, and what to do."""

    category: str
    words: str
    remedy: str = ""
