"""Amounts as people write them: 30M tokens, 4h."""

from __future__ import annotations

import re

from launcher.errors import JobError

SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
HOURS = {"m": 1 / 60, "h": 1.0, "d": 24.0}
MOST_TOKENS = 10**16
MEAN_ROW_TOKENS = 500
"""Tokens of a conversation where nobody says: between Alpaca's 100 and long chats' 2,000."""


def number_of(text: str, what: str) -> int:
    """A count such as `30M`, `12k`, `1.5B` or `30,000`; nothing is 0.

    Raises:
        JobError: it is no number, or none that can be meant.
    """
    if not text.strip():
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", text.strip().lower().replace(",", "").replace("_", ""))
    value = float(found[1]) * SCALES[found[2]] if found else -1.0
    if not 1 <= value <= MOST_TOKENS:
        raise JobError(f"{what} {text}: not a sensible count", "Write 30M, 12k or 30000.")
    return int(value)


def total_tokens(tokens: str, rows: str, row_tokens: float, epochs: float) -> int:
    """Tokens to train on, all epochs together, from tokens or from rows and their mean length.

    Raises:
        JobError: an amount is no number, or `epochs` is not above 0.
    """
    if epochs <= 0:
        raise JobError(f"--epochs {epochs:g}: must be above 0")
    known = number_of(tokens, "--tokens") or int(number_of(rows, "--rows") * (row_tokens or MEAN_ROW_TOKENS))
    return int(known * epochs)


def hours_of(walltime: str) -> float:
    """Hours of a walltime such as `90m`, `4h` or `2d`; nothing is 0.

    Raises:
        JobError: it is none.
    """
    if not walltime:
        return 0.0
    found = re.fullmatch(r"([1-9]\d*)([mhd])", walltime.strip())
    if found is None:
        raise JobError(f"--walltime {walltime}: not a walltime", "Write 90m, 4h or 2d.")
    return int(found[1]) * HOURS[found[2]]
