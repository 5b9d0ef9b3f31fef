"""Brings a run's model from the claim to this machine, by a pod that sees it: in parts, each checked, resumed after any
interruption, and under its own name only when it is whole.

What a pod sends is data: names of files are compared with what may be there, and sizes with the free disk.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.sync import mirror
from cluster.run.lock import try_lock
from rundir.files import read_json, write_json
from rundir.quantities import count

SENDER = Path(__file__).with_name("remote_model.py")
PART_BYTES = 8 * 2**20
"""Of one answer: the client keeps an answer in memory, and copies it as it grows."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._-]{0,199}){0,3}")
_MOST_FILES = 10_000
_TRIES = 5
_PAUSE_SECONDS = 2.0
_SPARE_BYTES = 64 * 2**20

Ask = Callable[[Sequence[str]], str]
"""Runs a command in a pod, and gives what it printed."""
Tell = Callable[[int, int], None]
"""Hears how many bytes are here, and how many there are."""


@dataclass(frozen=True)
class ModelFile:
    """One file, as it is on the claim."""

    path: str
    size_bytes: int
    changed_ns: int


def fetch(ask: Ask, remote: str, target: Path, tell: Tell) -> None:
    """Brings the folder `remote` here as `target`. What an earlier call has brought is kept while it is the same there.

    Raises:
        ClusterError: there is no model, it does not fit on the disk, somebody else is bringing it, or the connection
            is lost again and again.
    """
    with _alone(target):
        _fetch(ask, remote, target, tell)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Two at once would write into the same files."""
    with open(target.with_name(f".{target.name}.lock"), "wb") as file:
        if not try_lock(file.fileno(), fcntl.LOCK_EX):
            raise ClusterError(f"another command is bringing {target} already", "wait for its end")
        yield


def _fetch(ask: Ask, remote: str, target: Path, tell: Tell) -> None:
    files = _listed(ask, remote)
    partial, noted = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.files.json")
    facts: dict[str, Any] = {"files": [asdict(one) for one in files]}
    if read_json(noted) != facts:
        if target.exists():
            words = f"{target} is there already, and is not what the claim has now"
            raise ClusterError(words, "move it away, and fetch again")
        shutil.rmtree(partial, ignore_errors=True)
        write_json(noted, facts)
    if not target.exists():
        partial.mkdir(exist_ok=True)
        _require_room(files, partial)
        for one in files:
            _bring(ask, remote, one, partial, lambda: tell(_here(files, partial), _total(files)))
        partial.replace(target)


def _listed(ask: Ask, remote: str) -> list[ModelFile]:
    lines = _answer(ask, {"folder": remote})
    files = [ModelFile(str(one.get("path")), one.get("bytes", -1), one.get("changed", 0)) for one in lines]
    if not files:
        words = f"there is no model in {remote} on the claim yet"
        raise ClusterError(words, "it is written when the run finishes: `tuneyard status` tells how far it is")
    odd = [one.path for one in files if not _NAME.fullmatch(one.path) or not _is_size(one.size_bytes)]
    if odd or len(files) > _MOST_FILES:
        what = f"what is no model's: {odd[0][:200]!r}" if odd else count(len(files), "file")
        raise ClusterError(f"{remote} holds {what}", "look at the claim: somebody else writes there")
    return files


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _require_room(files: Sequence[ModelFile], partial: Path) -> None:
    missing = _total(files) - _here(files, partial)
    free = shutil.disk_usage(partial).free
    if missing + _SPARE_BYTES > free:
        words = (
            f"{missing / 1e9:.1f} GB of the model are still to come, and {partial.parent} has {free / 1e9:.1f} GB free"
        )
        raise ClusterError(words, "make room, or submit from a folder on a larger disk")


def _bring(ask: Ask, remote: str, one: ModelFile, partial: Path, moved: Callable[[], None]) -> None:
    """The rest of a file. A connection may be lost any number of times, as long as something comes in between."""
    local = partial / one.path
    local.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    with open(os.open(local, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "ab") as file:
        while (offset := file.tell()) < one.size_bytes:
            try:
                file.write(_part(ask, remote, one, offset))
                file.flush()
                tries = 0
                moved()
            except ClusterError:
                tries += 1
                if tries == _TRIES:
                    raise
                time.sleep(_PAUSE_SECONDS)
        os.fsync(file.fileno())


def _part(ask: Ask, remote: str, one: ModelFile, offset: int) -> bytes:
    wanted = min(PART_BYTES, one.size_bytes - offset)
    lines = _answer(ask, {"folder": remote, "path": one.path, "offset": offset, "bytes": wanted})
    try:
        data = base64.b64decode(lines[0]["data"], validate=True)
    except (binascii.Error, IndexError, KeyError, TypeError, ValueError):
        data = b""
    if len(data) != wanted or zlib.crc32(data) != lines[0].get("crc"):
        raise ClusterError(f"a part of {one.path} at byte {offset} arrived damaged", "fetch again: the rest is kept")
    return data


def _answer(ask: Ask, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of an answer, without the last."""
    lines = list(mirror.objects(ask(mirror.asked(SENDER, request))))
    if not lines or lines[-1].get("end") is not True:
        raise ClusterError("the pod's answer was cut off", "fetch again: what has come is kept")
    return lines[:-1]


def _total(files: Sequence[ModelFile]) -> int:
    return sum(one.size_bytes for one in files)


def _here(files: Sequence[ModelFile], partial: Path) -> int:
    found = [partial / one.path for one in files]
    return sum(path.stat().st_size for path in found if path.is_file())
