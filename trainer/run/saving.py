"""When a run saves: by steps, by time, and for good; one save under way at most, beside training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint.fault_points import fault_point
from trainer.checkpoint.format.manifest import Manifest
from trainer.checkpoint.save_interval import SaveClock, observed_mtbf_seconds
from trainer.checkpoint.store import CheckpointStore, PendingSave, SaveResult
from trainer.config import CheckpointConfig
from trainer.engines.base import Engine
from trainer.runtime.phase_clock import PhaseClock
from trainer.runtime.progress import ProgressWriter


class Saver:
    """Saves one run. All ranks call its methods together, except `overdue` and `still_writing`.

    Args:
        store: the run's checkpoints.
        settings: when to save.
        progress: told of every save.
        phases: charged for the time that training waits.
        report: prints a line for people.

    Attributes:
        saved_step: step of the newest published checkpoint, or where training began.
    """

    def __init__(
        self,
        store: CheckpointStore,
        settings: CheckpointConfig,
        progress: ProgressWriter,
        phases: PhaseClock,
        report: Callable[[str], None],
    ) -> None:
        self._store, self._settings, self._progress = store, settings, progress
        self._phases, self._report = phases, report
        self._clock = SaveClock(settings, observed_mtbf_seconds())
        self._pending: PendingSave | None = None
        self.saved_step = 0

    @property
    def overdue(self) -> bool:
        """This rank's clock says that it is time."""
        return self._clock.due

    @property
    def still_writing(self) -> bool:
        """This rank's part of a save is being written."""
        return self._pending is not None and not self._pending.written

    def wants(self, step: int, overdue: bool, writing: bool) -> bool:
        """Whether to save at `step`: time alone never makes training wait for the save before.

        Args:
            overdue, writing: as agreed on by all ranks.
        """
        return self._by_steps(step) or (overdue and not writing)

    def _by_steps(self, step: int) -> bool:
        every = (self._settings.every_steps, self._settings.permanent_every_steps)
        return any(steps is not None and step % steps == 0 for steps in every)

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of `step` is never pruned."""
        every = self._settings.permanent_every_steps
        return every is not None and step % every == 0

    def start(self, engine: Engine, manifest: Manifest) -> None:
        """Begin to save; the save before must be finished."""
        with self._phases.within("save"):
            self._clock.begun()
            self._pending = self._store.start(engine, manifest)

    def finish(self) -> None:
        """End the save that is under way, if there is one: publish it, or say why it failed."""
        if self._pending is None:
            return
        with self._phases.within("save"):
            self._await_writer(self._pending)
            result = self._store.finish(self._pending)
        self._pending = None
        self._clock.measured(result.stall_seconds, result.write_seconds)
        self._tell(result)

    def _await_writer(self, pending: PendingSave) -> None:
        """Wait for this rank's file, with signs of life."""
        while not pending.wait(seconds=1.0):
            self._progress.pulse()

    def _tell(self, result: SaveResult) -> None:
        if result.folder is None:
            self._report(f"checkpoint at step {result.step} FAILED, training goes on: {'; '.join(result.problems)}")
            self._progress.update(save_problem={"step": result.step, "problems": result.problems})
            return
        self.saved_step = result.step
        self._progress.note_longest("save", result.write_seconds)
        self._progress.update(last_checkpoint=pointer(result.folder, result.step), save_problem=None)
        fault_point("pointer")
        self._report(
            f"saved {result.folder.parent.name}/{result.folder.name}; training waited {result.stall_seconds:.2f} s, "
            f"{result.written_bytes / 1e6:,.1f} MB in {result.write_seconds:.2f} s{self._next_save()}"
        )

    def _next_save(self) -> str:
        seconds = self._clock.interval_seconds
        if self._settings.every_minutes != "auto" or seconds is None:
            return ""
        return f"; saves {seconds / 60:.1f} min apart"


def pointer(folder: Path, step: int) -> dict[str, object]:
    """How progress.json names a checkpoint. A hint: the scan of the folder is the truth."""
    return {"step": step, "path": f"{folder.parent.name}/{folder.name}"}
