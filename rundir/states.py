"""Where a run is, and what its trainer does."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is, as its backend tells."""

    NONE = "none"  # not submitted yet
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # the scheduler does not answer

    @property
    def is_alive(self) -> bool:
        """Whether the run goes on by itself."""
        return self in (RunState.QUEUED, RunState.RUNNING)


class TrainerState(StrEnum):
    """What the trainer does: `state` in progress.json."""

    PREPARING = "preparing"
    STARTING = "starting"
    LOADING = "loading"
    FIRST_STEP = "first_step"
    TRAINING = "training"
    SAVING = "saving"
    EVALUATING = "evaluating"
    STOPPED = "stopped"  # saved on request, can go on
    FINISHED = "finished"
    FAILED = "failed"  # written by nobody: what readers say when failure.json counts


BEFORE_TRAINING = (TrainerState.PREPARING, TrainerState.STARTING, TrainerState.LOADING)
"""No step has been begun."""
BEFORE_STEPS = (*BEFORE_TRAINING, TrainerState.FIRST_STEP)
"""No step is done."""
