"""What is run in a pod to read from the run directory, or to leave a wish there. Its text is sent along with the
request, so that it fits the asking side whatever version the image has. Standard library only, and no other file.

`python -c TEXT REQUEST`, where REQUEST is JSON: `{"run_dir", "have": {path: bytes}, "ranks": [0], "attempt": N}`, or
`{"run_dir", "stop": {...}}`. Answers with JSON lines: parts of files, then `{"end": true, ...}`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

WHOLE = ("attempts.jsonl", "progress.json", "evaluation.json", "data/preflight.json")
GROWING = ("logs/metrics.jsonl",)
STORY = re.compile(r"(agent|prepare|export|evaluate|train|agent-node-\d+|train-node-\d+)\.log|stacks-rank-\d+\.txt")
RANK = re.compile(r"rank-(\d+)\.log")
MOST_BYTES = 4 * 2**20
"""In one answer; what is left is said, and asked for again."""


def main(arguments: list[str]) -> None:
    request = json.loads(arguments[0])
    if "stop" in request:
        leave_wish(request["run_dir"], request["stop"])
        more = False
    else:
        more = send(request)
    print(json.dumps({"end": True, "more": more}))


def send(request: dict[str, Any]) -> bool:
    run_dir, have, left = request["run_dir"], request.get("have", {}), MOST_BYTES
    for path in WHOLE:
        data = read(os.path.join(run_dir, path), 0, MOST_BYTES)
        if data is not None and zlib.crc32(data) != have.get(path):
            say(path, 0, data)
    for path in growing(request):
        offset = have.get(path, 0)
        size = length(os.path.join(run_dir, path))
        offset = offset if size >= offset else 0
        data = read(os.path.join(run_dir, path), offset, left)
        if data:
            say(path, offset, data)
            left -= len(data)
        if left <= 0:
            return True
    return False


def growing(request: dict[str, Any]) -> Iterator[str]:
    yield from GROWING
    logs = os.path.join(request["run_dir"], "logs")
    attempts = sorted(name for name in names(logs) if re.fullmatch(r"attempt-\d+", name))
    wanted = {int(rank) for rank in request.get("ranks", [])}
    for attempt in attempts:
        for name in sorted(names(os.path.join(logs, attempt))):
            rank = RANK.fullmatch(name)
            if STORY.fullmatch(name) or (rank and int(rank[1]) in wanted):
                yield f"logs/{attempt}/{name}"


def names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def read(path: str, offset: int, most: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(most)
    except OSError:
        return None


def say(path: str, offset: int, data: bytes) -> None:
    packed = base64.b64encode(zlib.compress(data)).decode()
    print(json.dumps({"path": path, "offset": offset, "data": packed}))


def leave_wish(run_dir: str, stop: dict[str, Any]) -> None:
    path = os.path.join(run_dir, "stop")
    beside = os.path.join(run_dir, f".stop.{os.getpid()}.new")
    with open(beside, "w") as file:
        json.dump(stop, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


if __name__ == "__main__":
    main(sys.argv[1:])
