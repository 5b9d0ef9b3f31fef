"""A run that is alive in a drill: where it is, its processes, and holding it still while something is done to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cluster import Backend
from cluster.run.lock import holder
from launcher.drill.actions import held_still, rank_pid
from launcher.errors import RunFailedError
from rundir.attempts import AttemptRecord, read_attempts
from rundir.paths import RunPaths
from rundir.progress import Progress, read_progress
from rundir.states import TrainerState

PATIENCE_SECONDS = 900.0
POLL_SECONDS = 0.005
"""Small models make a step in 20 ms, and the fault must come between two given ones."""
ALIVE_SECONDS = 0.5

Found = TypeVar("Found")


class DrillTarget:
    """The living run that a drill injects its fault into."""

    def __init__(self, run_dir: Path, where: Backend) -> None:
        self.run_dir, self.where = run_dir, where

    def progress(self) -> Progress:
        """progress.json, empty before the trainer wrote it."""
        return read_progress(self.run_dir)

    def published(self) -> set[str]:
        """The names of the published checkpoints."""
        return {path.name for path in (self.run_dir / "checkpoints").glob("step-*")}

    def agent(self) -> int:
        """The node agent's process."""
        who = holder(self.run_dir)
        if who is None or who.pid is None:
            raise RunFailedError("no agent is alive on the run")
        return who.pid

    def ranks(self) -> list[int]:
        """The processes that train, by rank."""
        attempt = read_attempts(self.run_dir)[-1].number
        folder = RunPaths(self.run_dir).attempt_logs(attempt)
        return [rank_pid(self.run_dir, attempt, rank) for rank in range(len(list(folder.glob("rank-*.pid"))))]

    def until(self, condition: Callable[[], Found | None], what: str, seconds: float = PATIENCE_SECONDS) -> Found:
        """Waits for something to be there, and gives it.

        Raises:
            RunFailedError: the run ended before, or the patience did.
        """
        now = time.monotonic()
        deadline, look = now + seconds, now + ALIVE_SECONDS
        while True:
            if (found := condition()) is not None:
                return found
            now = time.monotonic()
            if now >= look:
                look = now + ALIVE_SECONDS
                self._must_live(what)
            if now >= deadline:
                raise RunFailedError(f"waited {seconds:.0f} s for {what}")
            time.sleep(POLL_SECONDS)

    def until_step(self, step: int, saved: int) -> int:
        """Waits until so many steps are done and a checkpoint of `saved` or later is published; gives the step."""

        def there() -> int | None:
            progress = self.progress()
            done, last_saved = progress.step or 0, progress.last_checkpoint.step or 0
            in_time = progress.state == TrainerState.TRAINING and done >= step and last_saved >= saved
            return done if in_time else None

        return self.until(there, f"step {step} with a checkpoint of step {saved}")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[list[int]]:
        """Holds all ranks still inside the block, so that what is done there comes at one step of all."""
        ranks = self.ranks()
        with held_still(ranks):
            yield ranks

    def attempt(self, number: int) -> AttemptRecord | None:
        """The record of an attempt that has its outcome, else None."""
        return next((r for r in read_attempts(self.run_dir) if r.number == number and not r.is_open), None)

    def _must_live(self, what: str) -> None:
        status = self.where.status(self.run_dir)
        if not status.state.is_alive:
            cause = f": {status.reason}" if status.reason else ""
            raise RunFailedError(f"the run ended ({status.outcome}{cause}) before {what}")
