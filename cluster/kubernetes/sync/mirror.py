"""The run directory on the submitting machine, of a run whose own lies on a claim: a copy of what tells about it.

What a pod sends is data. Its paths are compared with what may be there, its sizes are bounded, and nothing of it is
ever a path, a command or a link here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from rundir.attempts import attempt_record
from rundir.files import atomic_write, write_json
from rundir.paths import ATTEMPTS, METRICS, MIRRORED, MIRRORED_LOGS, PROGRESS, grows
from rundir.stop import StopRequest

SENDER = Path(__file__).with_name("remote_rundir.py")
LEDGER = "tuneyard: "
MOST_BYTES = 2**30
"""Of one mirrored file."""
_MOST_PART = 2**24


def command(run_dir: str, here: Path, ranks: Sequence[int] = (0,)) -> list[str]:
    """What asks a pod for everything that is not here yet."""
    files = {"whole": MIRRORED, "growing": [METRICS], "logs": MIRRORED_LOGS}
    return asked(SENDER, {"run_dir": run_dir, "have": _have(here), "ranks": list(ranks), **files})


def stop_command(run_dir: str, stop: StopRequest) -> list[str]:
    """What leaves a stop request in the run directory."""
    return asked(SENDER, {"run_dir": run_dir, "stop": stop.to_json()})


def take(answer: str, here: Path) -> bool:
    """Writes an answer's parts into the mirror; gives whether there is more to ask for.

    Raises:
        ClusterError: the answer was cut off, or is none.
    """
    for line in objects(answer):
        if line.get("end") is True:
            return bool(line.get("more"))
        _take_part(here, line)
    raise ClusterError("the pod's answer was cut off", "ask again; `kubectl logs` of pod 0 tells whether it lives")


def take_ledger(log: str, here: Path) -> bool:
    """Takes the last ledger out of what pod 0 printed; gives whether there was one."""
    lines = [line[len(LEDGER) :] for line in log.splitlines() if line.startswith(LEDGER)]
    found = next(objects(lines[-1]), {}) if lines else {}
    records = [record for one in found.get("ledger") or () if (record := attempt_record(one)) is not None]
    if records:
        _write_whole(here / ATTEMPTS, "".join(json.dumps(one.to_json()) + "\n" for one in records).encode())
    if isinstance(found.get("progress"), dict) and found["progress"]:
        write_json(here / PROGRESS, found["progress"])
    return bool(records)


def asked(sender: Path, request: dict[str, Any]) -> list[str]:
    """The command that runs a sender's text in a pod."""
    return ["python", "-c", sender.read_text(encoding="utf-8"), json.dumps(request)]


def _have(here: Path) -> dict[str, int]:
    """What is here: the length of files that grow, the checksum of those that are replaced."""
    found = {}
    for path in MIRRORED:
        if (here / path).is_file():
            found[path] = zlib.crc32((here / path).read_bytes())
    for file in [here / METRICS, *(here / "logs").glob("attempt-*/*")]:
        path = file.relative_to(here).as_posix()
        if grows(path) and file.is_file():
            found[path] = file.stat().st_size
    return found


def _take_part(here: Path, part: dict[str, Any]) -> None:
    path, offset, data = part.get("path"), part.get("offset"), _unpacked(part.get("data"))
    if not isinstance(path, str) or not isinstance(offset, int) or data is None:
        return
    if path in MIRRORED:
        _write_whole(here / path, data)
    elif grows(path) and 0 <= offset <= MOST_BYTES - len(data):
        _write_part(here / path, offset, data)


def _unpacked(text: Any) -> bytes | None:
    """The bytes of a part, unless it is no part or blows up when it is unpacked."""
    if not isinstance(text, str) or len(text) > _MOST_PART:
        return None
    try:
        return zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MOST_PART)
    except (binascii.Error, ValueError, zlib.error):
        return None


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data, durable=False)


def _write_part(path: Path, offset: int, data: bytes) -> None:
    """Appends; a file that is shorter there than here begins anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if offset > size:
            return  # a hole: somebody else has begun this file anew
        if offset < size:
            os.ftruncate(descriptor, offset)
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines of an answer."""
    for line in _lines(text):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _lines(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if line.startswith("{"))
