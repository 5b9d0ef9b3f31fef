"""What is shipped beside the code: the chart and the site profiles, inside the package once it is installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped_folder(name: str) -> Path:
    """The folder `helm/tuneyard`, `helm/profiles` or `slurm/profiles`: the installed one, or this checkout's."""
    installed = _PACKAGE / "_shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
