"""What settings of other tools are called here, or that there are none: read from foreign_names.yaml."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ruamel.yaml import YAML

FILE = Path(__file__).with_name("foreign_names.yaml")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What stands here for a setting of another tool.

    Attributes:
        setting: What it is called here, dotted; empty when there is no such setting.
        how: How its value translates, or why there is none and what does it instead.
    """

    setting: str
    how: str

    def words(self) -> str:
        """One or two sentences."""
        if not self.setting:
            return f"There is no such setting: {self.how}."
        return f"It is {self.setting} here" + (f": {self.how}." if self.how else ".")


def foreign(name: str) -> Foreign | None:
    """What stands for a name of another tool; None when nobody knows it."""
    name = name.replace("-", "_").lower()
    exact, patterns = _table()
    return exact.get(name) or next((found for pattern, found in patterns if fnmatchcase(name, pattern)), None)


def entries() -> Iterator[tuple[list[str], Foreign]]:
    """The table, as it is written."""
    for entry in YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8")):
        how = entry.get("how", "") if "is" in entry else entry["no"]
        yield entry["names"].split(), Foreign(setting=entry.get("is", ""), how=how)


@functools.cache
def _table() -> tuple[dict[str, Foreign], list[tuple[str, Foreign]]]:
    """Names, and patterns with a `*`."""
    pairs = [(name, found) for names, found in entries() for name in names]
    return dict(pair for pair in pairs if "*" not in pair[0]), [pair for pair in pairs if "*" in pair[0]]
