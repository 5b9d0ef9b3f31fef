"""Durations as people write them in YAML: `90m`, `4h`, `2d`."""

from __future__ import annotations

SECONDS_PER_UNIT = {"m": 60, "h": 3600, "d": 86400}


def walltime_seconds(text: str) -> int:
    """Seconds in a time such as `90m`, `4h` or `2d`."""
    return int(text[:-1]) * SECONDS_PER_UNIT[text[-1]]
