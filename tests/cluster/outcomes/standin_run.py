"""A run of the stand-in trainer, on whatever backend."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import Backend
from tests.support.documents import read_attempts, read_progress

STANDIN = Path(__file__).parents[2] / "process" / "cluster" / "standin"
FOR_EVER = {"steps": 10**6, "save_every": 5}


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """Waits for a condition to hold, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return value


class StandinRun:
    """A planned run in a folder of its own; its ranks do what `trainer` says."""

    def __init__(self, backend: Backend, folder: Path, trainer: dict[str, Any], launch: dict[str, Any]) -> None:
        self.dir, self.backend = folder, backend
        facts = {"nodes": 1, "ranks_per_node": 2, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 10}
        facts |= {"phases": ["prepare", "train", "export"], "restart": {"backoff_seconds": 0.2}}
        (folder / "logs").mkdir(parents=True)
        self.plan(trainer, facts | launch)

    def plan(self, trainer: dict[str, Any], launch: dict[str, Any]) -> None:
        """Plans the run; or plans it anew, since nobody reads the plan while no attempt starts."""
        (self.dir / "plan.json").write_text(json.dumps({"launch": launch, "trainer": {"polite": True, **trainer}}))

    def trainer(self, **changes: Any) -> None:
        """Changes what the ranks of the next attempt do."""
        plan = json.loads((self.dir / "plan.json").read_text())
        self.plan(plan["trainer"] | changes, plan["launch"])

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
            progress = read_progress(self.dir) or {}
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
