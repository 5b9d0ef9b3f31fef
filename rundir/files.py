"""Replacing a file as a whole, and reading files that others replace.

Writers write beside, flush to the disk and rename, so a reader sees the old file or the new one. Readers are tolerant
all the same: disks fill up, and people edit files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rundir.document import Document
from rundir.errors import RunDirError


def atomic_write(path: Path, content: str | bytes, *, durable: bool = True, many_hosts: bool = False) -> None:
    """Replaces `path`; a crash at any moment leaves the old file or the new one.

    Args:
        path: In a folder that exists.
        content: Text is written as UTF-8.
        durable: Wait until file and name are on the disk, so that a power cut cannot take them back.
        many_hosts: Processes of several machines may replace it at once; their numbers may be the same.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    unique = f"{os.getpid()}-{os.urandom(4).hex()}" if many_hosts else str(os.getpid())
    staging = path.with_name(f".{path.name}.{unique}.new")
    try:
        with open(staging, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        staging.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """Replaces a text file; RunDirError when it cannot be written."""
    try:
        atomic_write(path, content)
    except OSError as error:
        raise RunDirError(
            f"{path}: cannot be written: {error.strerror}", "free disk space, or fix its owner"
        ) from error


def write_json(path: Path, value: Document | Mapping[str, Any]) -> None:
    """Replaces a JSON file; RunDirError when it cannot be written."""
    write_text(path, json.dumps(value.to_json() if isinstance(value, Document) else value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is no such file; RunDirError when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")  # what is no text is no JSON object either
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunDirError(f"{path}: cannot be read: {error.strerror}") from error
    value = parse_object(text)
    if value is None:
        raise RunDirError(f"{path}: does not hold a JSON object", "it is damaged, or was edited by hand")
    return value


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """The object in a JSON file that somebody else replaces; empty when it is missing or damaged at the moment."""
    try:
        return read_json(path) or {}
    except RunDirError:
        return {}


def read_json_of_other_node(path: Path) -> dict[str, Any]:
    """A file by which another machine speaks to this one; empty as long as it has not.

    Network file systems may remember for a minute that a name is not there, but a file that is there is looked up
    anew whenever it is opened. So one that is waited for is created here, empty; others replace it.
    """
    if not path.exists():  # as far as is remembered here: to create it asks the server, and harms no file that is there
        with contextlib.suppress(OSError):  # a full disk, or one that may only be read: then the minute has to pass
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o644))
    return read_json_or_empty(path)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines; a line that a crash cut off is left out."""
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return
    with file:
        for line in file:
            if (value := parse_object(line)) is not None:
                yield value


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, None when it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
