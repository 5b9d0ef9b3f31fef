"""Scores sizing against measurements: python -m benchmarks.sizing ROWS.csv [--json] [--speed | --memory].

Without a choice, rows whose unit is about speed are scored as speed and all others as memory. Without a file, the
rows that are shipped with the project are scored.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.sizing import memory, speed
from benchmarks.sizing.memory_rows import Row, read_rows

SHIPPED = [Path(__file__).parent / "rows" / name for name in ("memory.csv", "speed.csv")]


def main() -> None:
    """Reads the files, scores them, prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=SHIPPED, help="CSV files in the columns of the rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--speed", action="store_true", help="score all rows as speed")
    parser.add_argument("--memory", action="store_true", help="score all rows as memory")
    asked = parser.parse_args()
    result = scores([row for file in asked.files for row in read_rows(file)], asked.speed, asked.memory)
    print(json.dumps(result, indent=2) if asked.json else _text(result))


def scores(rows: list[Row], all_speed: bool = False, all_memory: bool = False) -> dict[str, Any]:
    """Scores of all rows, each under what it is about."""
    about_speed = [row for row in rows if all_speed or (speed.is_speed_row(row) and not all_memory)]
    about_memory = [row for row in rows if not all_speed and (all_memory or not speed.is_speed_row(row))]
    result = {"memory": memory.score(about_memory)} if about_memory else {}
    return result | ({"speed": speed.score(about_speed)} if about_speed else {})


def _text(result: dict[str, Any]) -> str:
    parts = [memory.render(result["memory"])] if "memory" in result else []
    if "speed" in result:
        show = getattr(speed, "render", lambda found: json.dumps(found, indent=2))
        parts.append(show(result["speed"]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
