"""What is run in a pod to list the files of a run's model, or to send a part of one. Its text is sent along with the
request, as sender.py's is. Standard library only, and no other file.

`python -c TEXT REQUEST`, where REQUEST is JSON: `{"folder"}`, or `{"folder", "path", "offset", "bytes"}`. Answers with
JSON lines, the last of which is `{"end": true}`.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    request = json.loads(arguments[0])
    if "path" in request:
        send(request)
    else:
        show(Path(request["folder"]))
    print(json.dumps({"end": True}))


def show(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            name = path.relative_to(folder).as_posix()
            print(json.dumps({"path": name, "bytes": found.st_size, "changed": found.st_mtime_ns}))


def send(request: dict[str, Any]) -> None:
    with open(Path(request["folder"]) / request["path"], "rb") as file:
        file.seek(request["offset"])
        data = file.read(request["bytes"])
    print(json.dumps({"crc": zlib.crc32(data), "data": base64.b64encode(data).decode()}))


if __name__ == "__main__":
    main(sys.argv[1:])
