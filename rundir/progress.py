"""progress.json and failure.json: where the trainer is, and why an attempt failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rundir.document import (
    Document,
    as_flag,
    as_integer,
    as_number,
    as_numbers,
    as_object,
    as_text,
    as_texts,
    field,
    nested,
)
from rundir.errors import RunDirError
from rundir.files import read_json, read_json_or_empty
from rundir.paths import RunPaths
from rundir.states import BEFORE_TRAINING, TrainerState

_SECTIONS = ("last_checkpoint", "phase_seconds", "longest_seconds", "save_problem")
_NOTHING: Mapping[str, float] = {}


class CheckpointRef(Document):
    """A published checkpoint: its step, and its folder in the run directory."""

    step: int | None = field(as_integer, default=None)
    path: str = field(as_text, default="")


class SaveProblem(Document):
    """The last save failed: of which step, and why on each rank."""

    step: int | None = field(as_integer, default=None)
    problems: tuple[str, ...] = field(as_texts, default=())


class Failure(Document):
    """failure.json: why an attempt failed, by the first rank that did."""

    attempt: int | None = field(as_integer, default=None)
    kind: str = field(as_text, default="")  # fatal | crash
    message: str = field(as_text, default="")
    remedy: str = field(as_text, default="")
    time: float | None = field(as_number, default=None)

    @property
    def is_fatal(self) -> bool:
        """Whether the same job would fail the same way again."""
        return self.kind == FATAL


FATAL, CRASH = "fatal", "crash"


def _step_of(value: object) -> int | None:
    """Of a resume: the checkpoint, or, by older versions, its step."""
    found = as_object(value)
    return as_integer(value if found is None else found.get("step"))


class Progress(Document):
    """Where the trainer is, as rank 0 tells; empty before it has told anything."""

    state: str = field(as_text, default="")
    """A `TrainerState`, or a word of a newer version."""
    attempt: int | None = field(as_integer, default=None)
    step: int | None = field(as_integer, default=None)
    max_steps: int | None = field(as_integer, default=None)
    epoch: float | None = field(as_number, default=None)
    tokens: float | None = field(as_number, default=None)
    supervised_tokens: float | None = field(as_number, default=None)
    tokens_per_second: float | None = field(as_number, default=None)
    loss: float | None = field(as_number, default=None)
    last_checkpoint: CheckpointRef = field(nested(CheckpointRef), default=CheckpointRef())
    phase_seconds: Mapping[str, float] = field(as_numbers, default=_NOTHING)
    longest_seconds: Mapping[str, float] = field(as_numbers, default=_NOTHING)
    resumed_step: int | None = field(_step_of, default=None, key="resumed_from")
    exactness: str = field(as_text, default="")
    trained: bool = field(as_flag, default=False)
    heartbeat: float | None = field(as_number, default=None)
    caution: str = field(as_text, default="")
    save_problem: SaveProblem = field(nested(SaveProblem), default=SaveProblem())
    failure: Failure = field(nested(Failure), default=Failure())

    def of_attempt(self, number: int) -> Progress:
        """The progress when this attempt wrote it; else empty, since it tells about another one."""
        return self if self.attempt == number else Progress()

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done and saved, and nothing of the training phase is left to do."""
        return self.state == TrainerState.FINISHED

    @property
    def is_trained(self) -> bool:
        """Whether the last step is saved: what may still go wrong is the last evaluation, which can be done again."""
        return self.is_finished or self.trained

    @property
    def has_trained(self) -> bool:
        """Whether the attempt has come as far as its first step."""
        if self.phase_seconds:  # tells it even of an attempt that failed while loading
            return bool(self.phase_seconds.get("first_step") or self.phase_seconds.get("training"))
        return self.state not in BEFORE_TRAINING


def read_progress(run_dir: Path) -> Progress:
    """Where the trainer is; empty when it has not said so yet, or the file cannot be read.

    On a full disk the trainer can only touch the file: its time counts as a heartbeat, too. Why an attempt failed
    stands under `failure`, which no later update by another rank takes back.
    """
    paths = RunPaths(run_dir)
    return _with_failure(_read(paths.progress), Failure.from_json(read_json_or_empty(paths.failure)))


def _read(path: Path) -> Progress:
    try:
        found = read_json(path) or {}
        touched = path.stat().st_mtime if found else 0.0
    except (RunDirError, OSError):
        return Progress()
    # sections that are no objects: somebody has edited them
    sound = {key: value for key, value in found.items() if key not in _SECTIONS or isinstance(value, dict)}
    progress = Progress.from_json(sound)
    if progress.heartbeat is not None:
        return progress.changed(heartbeat=max(progress.heartbeat, touched))
    return progress


def _with_failure(progress: Progress, failure: Failure) -> Progress:
    """The progress with the failure, when it is of this attempt or a newer one that has told nothing else."""
    failed, told = failure.attempt, progress.attempt
    if failed is None or (told is not None and told > failed):
        return progress
    if told == failed and progress.is_trained:  # its work was done, and saved
        return progress.changed(state=TrainerState.FINISHED)
    beats = [beat for beat in (progress.heartbeat, failure.time) if beat is not None]
    beat = max(beats, default=None)
    return progress.changed(state=TrainerState.FAILED, attempt=failed, failure=failure, heartbeat=beat)
