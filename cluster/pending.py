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


def duration(seconds: float | None) -> str:
    """A time as people say it: 2 d 4 h."""
    if seconds is None:
        return "no limit"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part)
