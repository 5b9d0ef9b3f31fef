"""What a rank does to itself: the fault is armed when training reaches its step."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import OF_EVERY_RANK, Fault
from trainer.checkpoint import points

BALLAST = "ballast"
FULL_STEPS = 5
SLOW_SECONDS = 0.2


class Striker:
    """Strikes one rank of one attempt.

    Args:
        fault: what to do.
        run_dir: the run.
        rank, world_size: of this process.
    """

    def __init__(self, fault: Fault, run_dir: Path, rank: int, world_size: int) -> None:
        self._fault, self._run_dir, self._rank = fault, run_dir, rank
        self._chosen = rank == fault.rank % world_size
        self._strikes_at_point = self._chosen if fault.point in OF_EVERY_RANK else rank == 0
        self._armed = False
        points.watch(self._at_point)

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
        (self._run_dir / "stop").touch()

    def _disk_full(self) -> None:
        """Takes the free space of the small filesystem, but for less than a checkpoint needs."""
        if self._rank != 0:
            return
        folder = self._run_dir / "checkpoints"
        left = int(self._fault.place * _newest_bytes(folder))
        with (folder / BALLAST).open("wb") as stream:
            room = shutil.disk_usage(folder).free - left
            if room > 0:
                os.posix_fallocate(stream.fileno(), 0, room)

    def _signal_later(self, number: signal.Signals, chosen: bool) -> None:
        if chosen:
            pid = os.getpid()
            timer = threading.Timer(self._fault.delay_seconds, os.kill, (pid, number))
            timer.daemon = True
            timer.start()

    def _at_point(self, point: str) -> None:
        if not self._armed or point != self._fault.point or not self._strikes_at_point:
            return
        if self._fault.kind == "kill at point":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault.kind == "slow storage":
            time.sleep(SLOW_SECONDS)
        if self._fault.kind == "refuse at point" and point not in ("copied", "pointer"):  # no storage is used there
            self._armed = False
            number = getattr(errno, self._fault.detail)
            raise OSError(number, os.strerror(number))


def _newest_bytes(checkpoints: Path) -> int:
    folders = sorted(checkpoints.glob("step-*"))
    return sum(file.stat().st_size for file in folders[-1].iterdir()) if folders else 50_000


def attempt(run_dir: str, number: int, raw: dict[str, Any] | None) -> str:
    """One attempt of a run on this rank, with a fault in it."""
    from trainer.config import read_trainer_config
    from trainer.loop import TrainingRun
    from trainer.progress import say

    folder = Path(run_dir)
    run = TrainingRun(folder, read_trainer_config(folder), number, say)
    if raw is not None:
        striker = Striker(Fault(**raw), folder, run.ranks.rank, run.ranks.size)
        first, optimise = run.step, run._optimise

        def struck(*arguments: Any) -> None:
            striker.at_step(run.step - first)
            optimise(*arguments)

        run._optimise = struck  # type: ignore[method-assign]
    return run.train()


def prepare(run_dir: str) -> None:
    """Tokenises the run's data."""
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare as prepare_data

    prepare_data(Path(run_dir), read_trainer_config(Path(run_dir)))
