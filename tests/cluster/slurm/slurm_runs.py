"""Runs on the test cluster: the stand-in trainer for lives and deaths, real ranks for what they train."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.rundir import read_attempts
from cluster.slurm.backend import SlurmBackend
from slurm.testbed import Testbed

ROOT = Path(__file__).parents[3]
STANDIN = ROOT / "tests" / "process" / "cluster" / "standin"
FOR_EVER = {"steps": 10**6, "save_every": 5}


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """Waits for a condition to hold, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return value


class SlurmRun:
    """One run of the stand-in as a SLURM job."""

    def __init__(self, bed: Testbed, folder: Path, trainer: dict[str, Any] | None = None, **launch: Any) -> None:
        self.bed, self.dir, self.backend = bed, folder, SlurmBackend()
        site = {"partition": "low", **launch.pop("slurm", {})}
        site["environment"] = {"PYTHONPATH": str(STANDIN), **site.get("environment", {})}
        facts = {"backend": "slurm", "nodes": 2, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1}
        facts |= {"grace_seconds": 10, "phases": ["prepare", "train", "export"], "walltime_seconds": 600}
        facts |= {"restart": {"backoff_seconds": 0.2}, **launch, "slurm": site}
        (folder / "logs").mkdir(parents=True)
        settings = {"polite": True, **(trainer or FOR_EVER)}
        (folder / "plan.json").write_text(json.dumps({"launch": facts, "trainer": settings}))

    def submit(self) -> str:
        return self.backend.submit(self.dir).id

    def ended(self, seconds: float = 90.0) -> str | None:
        """Waits for the end of the run, and gives its outcome."""
        status = self.backend.wait(self.dir, seconds)
        assert status.state == "ended", status
        return status.outcome

    def records(self) -> list[dict[str, Any]]:
        return read_attempts(self.dir)

    def trains(self, attempt: int, steps: int = 10, seconds: float = 90.0) -> dict[str, Any]:
        """Waits until an attempt has made some steps; gives its record."""

        def made() -> bool:
            path = self.dir / "progress.json"
            progress = json.loads(path.read_text()) if path.exists() else {}
            if progress.get("attempt") != attempt:
                return False
            return progress["step"] >= steps + ((progress.get("resumed_from") or {}).get("step") or 0)

        until(made, f"steps of attempt {attempt}", seconds)
        return self.records()[attempt]

    def closed(self, attempt: int, seconds: float = 90.0) -> dict[str, Any]:
        """Waits until an attempt has its outcome; gives its record."""
        return until(
            lambda: next((one for one in self.records()[attempt:] if one.get("outcome")), None), "an outcome", seconds
        )

    def rank_pid(self, rank: int) -> int:
        return int((self.dir / f"rank{rank}.pid").read_text())

    def log(self, name: str) -> str:
        return (self.dir / "logs" / name).read_text(errors="replace")


def tuneyard(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it; this test's SLURM is in the environment."""
    command = [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
