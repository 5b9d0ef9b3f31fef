"""Job files of a site: a path that only the run's pods see counts as there when the site profile mounts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.jobfile import loader
from launcher.jobfile.loader import LoadedJob
from launcher.site.profile import LOCAL, load_profile
from launcher.yamlfile.document import Document, read_document


def load_job(path: Path, base: Path | None = None) -> LoadedJob:
    """Reads and checks a job file, with the site profile that it names.

    Args:
        path: The YAML file.
        base: What relative paths in it are relative to, if not its own folder.

    Raises:
        JobFileError: the file cannot be read, is not YAML, or says something wrong; all problems are in it.
    """
    return checked(read_document(path), path, base)


def checked(document: Document, path: Path, base: Path | None = None) -> LoadedJob:
    """The job in a document that was read from `path`; relative paths begin in its folder, or in `base`.

    Raises:
        JobFileError: it says something wrong; all problems are in it.
    """

    def is_mounted(wanted: str) -> bool:
        section: Any = document.data.get("cluster")
        named = section.get("profile") if isinstance(section, dict) else None
        if not isinstance(named, str) or named == LOCAL:
            return False
        try:
            return load_profile(named, Path(document.file).resolve().parent).holds(wanted)
        except JobError:
            return False  # said by whoever loads the profile

    return loader.checked(document, path, base, is_mounted)
