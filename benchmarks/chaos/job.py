"""The job that gets the faults: a tiny model and made-up conversations, on every engine and number of ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.chaos.injector import prepare
from tests.support import tiny
from tests.support.ranks import run_on_ranks

STEPS, SAVE_EVERY, PACKS_PER_STEP = 30, 3, 4
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "lora_dropout": 0.1},
    "lora without dropout": {"kind": "lora", "r": 4},
    "qlora": {"kind": "lora", "r": 4, "quantization": "nf4"},
}
"""Dropout draws from each rank's own generator: equal bits need equal ranks."""
SMALL_DISK_BYTES = 8_000_000


@dataclass(frozen=True)
class Layout:
    """How a run is laid over ranks, and what it trains (a key of `METHODS`)."""

    engine: str
    ranks: int
    method: str

    def moved(self, engine: str, ranks: int) -> Layout:
        return replace(self, engine=engine, ranks=ranks)


class RunFactory:
    """Makes runs of the job; everything lies in one folder.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model = tiny.make_model(folder / "model")
        self._rows = tiny.write_rows(folder / "rows.jsonl", 120)
        self._prepared: Path | None = None

    def config(self, layout: Layout) -> dict[str, Any]:
        """The trainer's configuration in a layout."""
        return tiny.trainer_config(
            self._model,
            self._rows,
            method=METHODS[layout.method],
            execution={
                "engine": layout.engine,
                "world_size": layout.ranks,
                "accumulation": PACKS_PER_STEP // layout.ranks,
            },
            training={"max_steps": STEPS},
            logging={"every_seconds": 0, "tensorboard": False},
            checkpoint={"every_steps": SAVE_EVERY, "keep": 2, "every_minutes": None, "permanent_every_steps": 12},
        )

    @contextlib.contextmanager
    def run(self, name: str, layout: Layout) -> Iterator[Path]:
        """A prepared run whose checkpoints lie on a small filesystem of their own, gone afterwards."""
        run_dir = tiny.make_run(self.folder / name, self.config(layout))
        if self._prepared is None:
            run_on_ranks(prepare, 1, str(run_dir), distributed=False)
            self._prepared = self.folder / "prepared"
            shutil.copytree(run_dir / "data", self._prepared)
        else:
            shutil.copytree(self._prepared, run_dir / "data")
        checkpoints = run_dir / "checkpoints"
        checkpoints.mkdir()
        mounted = small_filesystem(checkpoints)
        try:
            yield run_dir
        finally:
            if mounted:
                subprocess.run(["umount", str(checkpoints)], check=True)
            shutil.rmtree(run_dir)

    def write_plan(self, run_dir: Path, layout: Layout) -> None:
        """The run's next attempt has this layout."""
        (run_dir / "plan.json").write_text(json.dumps({"trainer": self.config(layout)}))


def small_filesystem(folder: Path) -> bool:
    """Mount a filesystem of `SMALL_DISK_BYTES` there. False without the right to: disks are then never full."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tuneyard-chaos", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
