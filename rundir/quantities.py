"""Times, sizes and counts as people read and write them: one place for all messages, tables and reports."""

from __future__ import annotations

GIB = 1024**3
MIB = 1024**2
WALLTIME_PATTERN = r"^[1-9][0-9]*[mhd]$"
"""A walltime as people write it: `90m`, `4h` or `2d`."""
WALLTIME_UNITS = {"m": 60, "h": 3600, "d": 86400}
"""Seconds in the units that a walltime ends with."""


def count(number: float, noun: str, plural: str = "") -> str:
    """A number of things: `1 rank`, `2 ranks`, `1,024 rows`; `plural` is needed where an `s` is not enough."""
    digits = f"{number:,.0f}"
    return f"{digits} {noun if digits == '1' else plural or noun + 's'}"


def gib(num_bytes: float, decimals: int = 1) -> str:
    """Bytes in GiB: `79.1 GiB`."""
    return f"{num_bytes / GIB:.{decimals}f} GiB"


def size(num_bytes: float, decimals: int = 1) -> str:
    """Bytes in GiB, or in MiB with one decimal where there are few: `1.5 GiB`, `12.3 MiB`."""
    return gib(num_bytes, decimals) if num_bytes >= GIB / 10 else f"{num_bytes / MIB:.1f} MiB"


def duration(seconds: float | None) -> str:
    """A limit, to the minute from one minute on: `2 d 4 h`, `1 h 30 min`, `40 s`; None is `no limit`."""
    if seconds is None:
        return "no limit"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def elapsed(seconds: float) -> str:
    """A measured time in its two largest units, hours at most: `26 h 5 min`, `2 min 5 s`, `40 s`, `< 1 s`."""
    if round(seconds) == 0:
        return "< 1 s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rounded_duration(seconds: float, *, hours_from: float = 5400, hours: int = 1, minutes: int = 1) -> str:
    """An estimated time in one unit: `2.4 h`, `12.5 min`, `40 s`.

    Args:
        seconds: The time.
        hours_from: Seconds from which it is told in hours.
        hours: Decimals of hours.
        minutes: Decimals of minutes.
    """
    if seconds >= hours_from:
        return f"{seconds / 3600:,.{hours}f} h"
    return f"{seconds / 60:,.{minutes}f} min" if seconds >= 60 else f"{seconds:.0f} s"


def age(seconds: float) -> str:
    """How long ago something was, in its largest unit: `3 d`, `5 h`, `12 min`, `40 s`."""
    units = ((86400, "d"), (3600, "h"), (60, "min"))
    length, unit = next(((length, unit) for length, unit in units if seconds >= length), (1, "s"))
    return f"{max(0.0, seconds) / length:.0f} {unit}"


def walltime(seconds: float) -> str:
    """A walltime as job files and site profiles have it: `4h`, else in whole minutes, `90m`."""
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f}h"
    return f"{max(1, int(seconds // 60))}m"


def walltime_seconds(text: str) -> int:
    """Seconds in a walltime such as `90m`, `4h` or `2d`."""
    return int(text[:-1]) * WALLTIME_UNITS[text[-1]]
