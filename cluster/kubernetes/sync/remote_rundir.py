"""What is run in a pod to read from the run directory, or to leave a wish there. Its text is sent along with the
request, so that it fits the asking side whatever version the image has. Standard library only, and no other file.

`python -c TEXT REQUEST`, where REQUEST is JSON: `{"run_dir", "have": {path: bytes}, "ranks": [0], "whole": [path],
"growing": [path], "logs": pattern}`, or `{"run_dir", "stop": {...}}`. Answers with JSON lines: parts of files, then
`{"end": true, ...}`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RANK = re.compile(r"rank-(\d+)\.log")
MOST_BYTES = 4 * 2**20
"""In one answer; what is left is said, and asked for again."""


def main(arguments: list[str]) -> None:
    request = json.loads(arguments[0])
    run_dir, more = Path(request["run_dir"]), False
    if "stop" in request:
        leave_stop_request(run_dir, request["stop"])
    else:
        more = send(run_dir, request)
    print(json.dumps({"end": True, "more": more}))


def send(run_dir: Path, request: dict[str, Any]) -> bool:
    have, left = request.get("have", {}), MOST_BYTES
    for path in request["whole"]:
        data = read(run_dir / path, 0, MOST_BYTES)
        if data is not None and zlib.crc32(data) != have.get(path):
            say(path, 0, data)
    for path in growing(run_dir, request):
        known = have.get(path, 0)
        offset = known if length(run_dir / path) >= known else 0  # one that is shorter began anew
        data = read(run_dir / path, offset, left)
        if data:
            say(path, offset, data)
            left -= len(data)
        if left <= 0:
            return True
    return False


def growing(run_dir: Path, request: dict[str, Any]) -> Iterator[str]:
    yield from request["growing"]
    for log in sorted(run_dir.glob("logs/attempt-*/*")):
        path, rank = log.relative_to(run_dir).as_posix(), RANK.fullmatch(log.name)
        if re.fullmatch(request["logs"], path) and (rank is None or int(rank[1]) in request["ranks"]):
            yield path


def length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read(path: Path, offset: int, most: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(most)
    except OSError:
        return None


def say(path: str, offset: int, data: bytes) -> None:
    packed = base64.b64encode(zlib.compress(data)).decode()
    print(json.dumps({"path": path, "offset": offset, "data": packed}))


def leave_stop_request(run_dir: Path, stop: dict[str, Any]) -> None:
    beside = run_dir / f".stop.{os.getpid()}.new"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(stop, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(run_dir / "stop")


if __name__ == "__main__":
    main(sys.argv[1:])
