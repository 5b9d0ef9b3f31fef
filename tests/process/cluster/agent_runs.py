"""Runs for real agents: real processes, real torchrun, and a stand-in for the trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.process_identity import stat_fields
from cluster.run.lock import holder

ROOT = Path(__file__).parents[3]
STANDIN = Path(__file__).parent / "standin"
PATIENCE_SECONDS = 60.0
NEVER = {"auto": False}
"""`launch.restart` of a run that ends with its first attempt."""


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Waits for a condition to hold, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)
    return value


def lives(pid: int) -> bool:
    """Whether a process runs: zombies do not count."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


class Run:
    """A planned run in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.agents: list[subprocess.Popen[bytes]] = []

    def plan(self, phases: list[str], grace_seconds: float = 30.0, ranks: int = 2, **trainer: Any) -> "Run":
        launch = {
            "nodes": 1,
            "ranks_per_node": ranks,
            "device": "cpu",
            "threads_per_rank": 1,
            "grace_seconds": grace_seconds,
            "phases": phases,
        }
        self.dir.mkdir(exist_ok=True)
        (self.dir / "plan.json").write_text(json.dumps({"launch": launch, "trainer": {"steps": 3, **trainer}}))
        return self

    def launch(self, **more: Any) -> "Run":
        """Adds to plan.json's `launch`."""
        path = self.dir / "plan.json"
        plan = json.loads(path.read_text())
        plan["launch"] |= more
        path.write_text(json.dumps(plan))
        return self

    def start(self) -> subprocess.Popen[bytes]:
        """Starts an agent as a child of the test."""
        with open(self.dir / "spoken", "ab") as spoken:
            command = [sys.executable, "-m", "cluster.agent", str(self.dir)]
            agent = subprocess.Popen(command, stdout=spoken, stderr=spoken, start_new_session=True)
        self.agents.append(agent)
        return agent

    def carry(self) -> int:
        """Runs an agent to its end; returns its exit code."""
        return self.start().wait(PATIENCE_SECONDS)

    def record(self, number: int = -1) -> dict[str, Any]:
        return json.loads((self.dir / "attempts.jsonl").read_text().splitlines()[number])

    def log(self, name: str, attempt: int = 0) -> str:
        return (self.dir / "logs" / f"attempt-{attempt:03d}" / name).read_text()

    def pid_in(self, name: str) -> int:
        path = self.dir / name
        return int(until(lambda: path.exists() and path.read_text(), name))

    def rank_pids(self, ranks: int = 2) -> list[int]:
        return [self.pid_in(f"rank{rank}.pid") for rank in range(ranks)]

    def clean_up(self) -> None:
        """Ends what a failed test left behind: an agent's death ends its children."""
        for agent in self.agents:
            agent.kill()
            agent.wait()
        if (who := holder(self.dir)) and who.pid is not None:
            os.kill(who.pid, signal.SIGKILL)
