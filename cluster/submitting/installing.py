"""Which command installs what is missing.

The project has no name on a package index, so `pip install tuneyard` is none.
From a checkout it is the checkout's own; from a wheel, an archive or a repository it is that; else the packages are
named one by one.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

NAME = "tuneyard"
ROOT = Path(__file__).parents[2]
CONSTRAINTS = "constraints.txt"
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


def install_line(extra: str, root: Path = ROOT, installed: Distribution | None = None) -> str:
    """The command that brings the packages of an extra, such as `train`, to this Python.

    Args:
        extra: What pyproject.toml calls it; empty for what everything needs.
        root: Where the packages lie.
        installed: How they were installed; looked up when not given.
    """
    return shlex.join([sys.executable, "-m", "pip", "install", *_what(extra, root, installed or _installed())])


def _what(extra: str, root: Path, installed: Distribution | None) -> list[str]:
    part = f"[{extra}]" if extra else ""
    if (root / "pyproject.toml").is_file():
        versions = ["-c", str(root / CONSTRAINTS)] if (root / CONSTRAINTS).is_file() else []
        return ["-e", f"{root}{part}", *versions]
    if installed is not None and (source := _source(installed)):
        return [f"{NAME}{part} @ {source}"]
    return list(_requirements(extra, installed)) or [f"{NAME}{part}"]


def _installed() -> Distribution | None:
    from importlib.metadata import PackageNotFoundError, distribution  # 20 ms that only a message is to cost

    try:
        return distribution(NAME)
    except PackageNotFoundError:
        return None


def _source(installed: Distribution) -> str:
    """Where it was installed from, as pip takes it; empty when that is not known or not there any more."""
    from urllib.parse import unquote, urlsplit

    try:
        found = json.loads(installed.read_text("direct_url.json") or "{}")
        url, vcs = str(found.get("url", "")), found.get("vcs_info") or {}
        if vcs:
            return f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        path = urlsplit(url)
        return "" if path.scheme == "file" and not Path(unquote(path.path)).exists() else url
    except (ValueError, KeyError, TypeError):
        return ""


def _requirements(extra: str, installed: Distribution | None) -> Iterator[str]:
    for line in (installed.requires or []) if installed else []:
        requirement, _, marker = line.partition(";")
        found = _EXTRA.search(marker)
        if (found[1] if found else "") == extra:
            yield requirement.strip()
