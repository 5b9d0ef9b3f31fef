"""What the trainer tells the outside, and what it hears: progress.json, failure.json, the stop file, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from rundir.paths import RunPaths
from rundir.progress import Failure
from rundir.states import TrainerState
from rundir.stop import read_stop
from trainer.runtime.files import read_json, write_json_atomic
from trainer.runtime.phase_clock import PhaseClock

logger = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class ProgressWriter:
    """Keeps `progress.json` up to date; only the writing rank touches the disk.

    Args:
        run_dir: the run directory.
        attempt: number of this attempt.
        writes: this process writes.
        phases: where the attempt's time goes, told with every update.
    """

    def __init__(self, run_dir: Path, attempt: int, writes: bool = True, phases: PhaseClock | None = None) -> None:
        self._file = RunPaths(run_dir).progress
        self._writes, self.phases = writes, phases
        self._written = -PULSE_SECONDS
        old = _read(self._file) if writes else None
        self._facts: dict[str, Any] = {
            "state": TrainerState.STARTING.value,
            "step": 0,
            "max_steps": None,
            "last_checkpoint": None,
            **(old or {}),
            "attempt": attempt,
            "resumed_from": None,
            "exactness": None,
            "trained": False,
            "save_problem": None,
            "phase_seconds": None,
            "longest_seconds": {},
        }

    def update(self, **facts: Any) -> None:
        """Change some facts; the heartbeat is always renewed."""
        self._facts |= facts
        if self._writes:
            seconds = {"phase_seconds": self.phases.seconds()} if self.phases else {}
            _write_or_warn(self._file, {**self._facts, **seconds, "heartbeat": time.time()})
            self._written = time.monotonic()

    def note_longest(self, what: str, seconds: float) -> None:
        """Remember the longest `step` or `save` of this attempt; it is told with the next update."""
        known = self._facts["longest_seconds"]
        known[what] = round(max(known.get(what, 0.0), seconds), 3)

    def pulse(self) -> None:
        """Renew the heartbeat, if that was not done within the last second."""
        if self._writes and time.monotonic() - self._written >= PULSE_SECONDS:
            self.update()


def record_failure(run_dir: Path, attempt: int, kind: str, message: str, remedy: str = "") -> None:
    """Note why an attempt failed, unless another rank has done so; any rank may call this.

    It has a file of its own: the first rank may renew progress.json for as long as torchrun lets it live.

    Args:
        kind: "fatal" (must not be tried again unchanged) or "crash".
    """
    file = RunPaths(run_dir).failure
    if Failure.from_json(_read(file)).attempt != attempt:
        failure = Failure(attempt=attempt, kind=kind, message=message, remedy=remedy, time=time.time())
        _write_or_warn(file, failure.to_json())


def _read(file: Path) -> Any:
    """What a file says, nothing if it is empty; it tells about the past, so a damaged one is replaced."""
    try:
        return read_json(file) if file.exists() and file.stat().st_size else None
    except ValueError as error:
        logger.warning(f"{file} is damaged and will be replaced: {error}")
        return None


def _write_or_warn(file: Path, facts: dict[str, Any]) -> None:
    """A full disk must end neither training nor the report of a failure. The file's time stays a sign of life."""
    try:
        write_json_atomic(file, facts)
    except OSError as error:
        logger.warning(f"{file} cannot be written: {error}")
        with contextlib.suppress(OSError):
            os.utime(file)  # needs no space


class StopListener:
    """Whether this rank was asked to save and leave: by the `stop` file or by a signal.

    The handler only sets a flag; saving happens at a step boundary on which all ranks agree.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file = RunPaths(run_dir).stop
        self._signalled: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: Any) -> None:
        self._signalled = signal.Signals(number).name

    def __bool__(self) -> bool:
        return self._signalled is not None or self._file.exists()

    def reason(self) -> str:
        """Who asked, in words."""
        asked = read_stop(self._run_dir)
        return f"{asked.reason} ({asked.who})" if asked is not None else self._signalled or "stop file"
