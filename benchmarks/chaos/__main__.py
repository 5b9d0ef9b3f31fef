"""`python -m benchmarks.chaos --faults N --seed S [--engine E ...] [--json] [--record FILE]`

Real ranks over Gloo train a tiny model under faults: SIGKILL, SIGTERM, SIGSTOP, kills and refused writes at every
named point of a save, a full disk, damage at rest, other engines and numbers of ranks. After every attempt the newest
whole checkpoint must still be there, and the next attempt must take it; every run must end where an undisturbed one
ends. Exit code 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.job import RunFactory
from trainer.config import ENGINES

VERSIONS = ("torch", "deepspeed", "transformers", "peft", "safetensors")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.split("\n\n")[1])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="may be repeated; default: all in turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--record", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unmounts and removes what it made, as after Ctrl-C
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one, and say so on stdout
    result = campaign(arguments.faults, arguments.seed, arguments.engine or list(ENGINES))
    text = json.dumps(result, indent=1)
    if arguments.record:
        arguments.record.write_text(text + "\n", encoding="utf-8")
    print(text if arguments.json else summary(result))
    return 0 if result["clean"] else 1


def campaign(faults: int, seed: int, engines: list[str]) -> dict[str, Any]:
    """Carry out one campaign in a temporary folder."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-chaos-"))
    try:
        tally = Campaign(RunFactory(folder), engines, faults, seed, lambda line: print(line, file=sys.stderr)).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        **tally.as_json(),
        "clean": tally.clean,
        "seed": seed,
        "engines": engines,
        "seconds": round(time.monotonic() - started, 1),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def summary(result: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [
        f"{result['faults']} faults, {result['attempts']} attempts, {result['runs']} runs in {result['seconds']:.0f} s",
        f"lost checkpoints {result['lost_checkpoints']}, hangs {result['hangs']}, "
        f"steps lost at most {result['steps_lost_max']}",
        f"bit-equal: {result['bit_equal']} ({result['runs_on_constant_ranks']} runs on constant ranks), "
        f"order-exact: {result['order_exact']} ({result['runs_moved']} moved runs)",
    ]
    return "\n".join(lines + result["problems"])


if __name__ == "__main__":
    sys.exit(main())
