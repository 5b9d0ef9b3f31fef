"""Translate names of settings of other tools; the table is foreign_names.yaml."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ruamel.yaml import YAML

FILE = Path(__file__).with_name("foreign_names.yaml")


@dataclass(frozen=True, kw_only=True)
class ForeignSetting:
    """How the job file expresses a setting of another tool.

    Attributes:
        setting: The job file's setting, dotted; empty if there is none.
        how: How the value translates; without a setting, why there is none and what to use instead.
    """

    setting: str
    how: str

    def hint(self) -> str:
        """Return the translation as a sentence for an error message."""
        if not self.setting:
            return f"There is no such setting: {self.how}."
        return f"It is {self.setting} here" + (f": {self.how}." if self.how else ".")


def find_foreign(name: str) -> ForeignSetting | None:
    """Return the translation of another tool's name, or None if the table does not have it."""
    name = name.replace("-", "_").lower()
    exact, patterns = _table()
    return exact.get(name) or next((found for pattern, found in patterns if fnmatchcase(name, pattern)), None)


def entries() -> Iterator[tuple[list[str], ForeignSetting]]:
    """Yield the entries of the table, as (names, translation)."""
    for entry in YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8")):
        how = entry.get("how", "") if "is" in entry else entry["no"]
        yield entry["names"].split(), ForeignSetting(setting=entry.get("is", ""), how=how)


@functools.cache
def _table() -> tuple[dict[str, ForeignSetting], list[tuple[str, ForeignSetting]]]:
    """Return exact names, and patterns with a `*`."""
    pairs = [(name, found) for names, found in entries() for name in names]
    return dict(pair for pair in pairs if "*" not in pair[0]), [pair for pair in pairs if "*" in pair[0]]
