"""Faults injected by a rank into itself: a fault is armed when training reaches its step."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import OF_EVERY_RANK, Fault
from launcher.drill.actions import fill_disk
from trainer.checkpoint import fault_points
from trainer.checkpoint.format.manifest import published

BALLAST = "ballast"
FULL_STEPS = 5
SLOW_SECONDS = 0.2
INJECTED = "injected.jsonl"
NO_STORAGE = ("copied", "pointer")
"""Points at which no storage could refuse anything."""


class FaultInjector:
    """Injects one fault into one rank of one attempt.

    Args:
        fault: what to do.
        run_dir: the run.
        attempt: its number.
        rank, world_size: of this process.
    """

    def __init__(self, fault: Fault, run_dir: Path, attempt: int, rank: int, world_size: int) -> None:
        self._fault, self._run_dir, self._attempt, self._rank = fault, run_dir, attempt, rank
        self._chosen = rank == fault.rank % world_size
        self._acts_at_point = self._chosen if fault.point in OF_EVERY_RANK else rank == 0
        self._armed = False
        fault_points.watch(self._at_point)

    def at_step(self, steps: int) -> None:
        """Training has done `steps` steps in this attempt."""
        if steps == self._fault.step:
            self._armed = True
            getattr(self, "_" + self._fault.kind.replace(" ", "_"), lambda: None)()
        if steps == self._fault.step + FULL_STEPS:
            (self._run_dir / "checkpoints" / BALLAST).unlink(missing_ok=True)

    def _kill_one(self) -> None:
        self._signal_later(signal.SIGKILL, self._chosen)

    def _kill_all(self) -> None:
        self._signal_later(signal.SIGKILL, True)

    def _terminate_one(self) -> None:
        self._signal_later(signal.SIGTERM, self._chosen)

    def _freeze_one(self) -> None:
        self._signal_later(signal.SIGSTOP, self._chosen)

    def _stop_file(self) -> None:
        self._note()
        (self._run_dir / "stop").touch()

    def _note(self) -> None:
        """Notes that the fault comes now: only faults that came are counted."""
        line = json.dumps({"attempt": self._attempt, "kind": self._fault.kind, "point": self._fault.point})
        with (self._run_dir / INJECTED).open("a") as stream:
            stream.write(line + "\n")

    def _disk_full(self) -> None:
        """Takes the free space of the small filesystem, but for less than a checkpoint needs."""
        if self._rank != 0:
            return
        folder = self._run_dir / "checkpoints"
        fill_disk(folder / BALLAST, int(self._fault.place * _newest_bytes(folder)))
        self._note()

    def _signal_later(self, number: signal.Signals, chosen: bool) -> None:
        if chosen:
            timer = threading.Timer(self._fault.delay_seconds, self._send, (number,))
            timer.daemon = True
            timer.start()

    def _send(self, number: signal.Signals) -> None:
        self._note()
        os.kill(os.getpid(), number)

    def _at_point(self, point: str) -> None:
        if not self._armed or point != self._fault.point or not self._acts_at_point:
            return
        if self._fault.kind == "kill at point":
            self._send(signal.SIGKILL)
        if self._fault.kind == "terminate at point":
            self._armed = False
            self._send(signal.SIGTERM)
        if self._fault.kind == "slow storage":
            self._note()
            time.sleep(SLOW_SECONDS)
        if self._fault.kind == "refuse at point" and point not in NO_STORAGE:
            self._armed = False
            self._note()
            number = getattr(errno, self._fault.detail)
            raise OSError(number, os.strerror(number))


def _newest_bytes(checkpoints: Path) -> int:
    found = published(checkpoints)
    return sum(file.stat().st_size for file in found[0][1].iterdir()) if found else 50_000


def attempt(run_dir: str, number: int, raw: list[dict[str, Any]]) -> str:
    """One attempt of a run on this rank, with faults in it."""
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    folder = Path(run_dir)
    run = TrainingRun(folder, read_trainer_config(folder), number)
    injectors = [FaultInjector(Fault(**fault), folder, number, run.ranks.rank, run.ranks.size) for fault in raw]
    first, optimise = run.step, run._optimise

    def with_faults(*arguments: Any) -> None:
        for injector in injectors:
            injector.at_step(run.step - first)
        optimise(*arguments)

    run._optimise = with_faults  # type: ignore[method-assign, assignment]
    return run.train()


def prepare(run_dir: str) -> None:
    """Tokenises the run's data."""
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare as prepare_data

    prepare_data(Path(run_dir), read_trainer_config(Path(run_dir)), lambda _: None)
