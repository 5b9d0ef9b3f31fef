"""Where an attempt's time went, and how much of a run's time became steps that were kept. Pure functions.

Goodput is useful seconds over all seconds that the run held or waited for machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rundir.attempts import AttemptRecord
from rundir.outcome import Outcome
from rundir.progress import Progress

BEFORE = ("queue", "gate", "prepare")
TRAINING = ("launch", "import", "rendezvous", "load", "first_step", "training", "save", "evaluate")
AFTER = ("export", "evaluate_model", "hang", "other")
PHASES = (*BEFORE, *TRAINING, *AFTER)
"""All that an attempt's time can go into; they add up to its seconds, the wait for it included."""
PRIOR_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class Goodput:
    """A run's account over all of its attempts."""

    wall_seconds: float
    useful_seconds: float
    goodput: float
    lost_steps: int
    lost_seconds: float
    by_phase: dict[str, float] = field(default_factory=dict)


def with_account(record: AttemptRecord, progress: Progress) -> AttemptRecord:
    """A closed record with what it says about its time: `phase_seconds`, `lost_steps`, `lost_seconds`.

    `progress` is what the trainer wrote in this attempt, empty when it wrote nothing. The record holds the
    seconds of `queue` and `gate` already.
    """
    timed, lost_steps = record.changed(phase_seconds=_phase_seconds(record, progress)), _lost_in(record)
    return timed.changed(lost_steps=lost_steps, lost_seconds=round(lost_steps * _seconds_per_step(timed), 3))


def summarise(records: Sequence[AttemptRecord]) -> Goodput:
    """The account of a run. Records without their seconds, of an older version, count as nothing."""
    by_phase = {phase: round(sum(_of(record, phase) for record in records), 3) for phase in PHASES}
    wall_seconds = sum(by_phase.values())
    lost = list(_lost_steps(records))
    lost_seconds = sum(steps * _seconds_per_step(record) for record, steps in lost)
    useful_seconds = max(0.0, by_phase["training"] - lost_seconds)
    return Goodput(
        wall_seconds=round(wall_seconds, 3),
        useful_seconds=round(useful_seconds, 3),
        goodput=round(useful_seconds / wall_seconds, 4) if wall_seconds else 0.0,
        lost_steps=sum(steps for _, steps in lost),
        lost_seconds=round(lost_seconds, 3),
        by_phase=by_phase,
    )


def mean_time_between_failures_seconds(records: Sequence[AttemptRecord], prior_seconds: float = PRIOR_SECONDS) -> float:
    """How long an attempt can expect to live. The prior speaks while little has been seen."""
    running = sum(_running_seconds(record) for record in records)
    failures = sum(bool(record.outcome and record.outcome.is_interruption) for record in records)
    return (running + prior_seconds) / (failures + 1)


def with_steps(record: AttemptRecord, progress: Progress) -> AttemptRecord:
    """A record with the attempt's first, last and last saved step; None, not 0, when it told nothing. Its longest
    step and save."""
    mine = progress.of_attempt(record.number)
    return record.changed(
        first_step=_first_step(mine),
        last_step=mine.step,
        last_checkpoint_step=mine.last_checkpoint.step,
        longest_seconds=mine.longest_seconds,
    )


def _first_step(mine: Progress) -> int | None:
    """Where the attempt began: where the run stands, when it has not trained, as `step` is older than it then."""
    if mine.resumed_step is not None or not mine:
        return mine.resumed_step
    return 0 if mine.has_trained else mine.step


def _phase_seconds(record: AttemptRecord, progress: Progress) -> dict[str, float]:
    known, ran, trainer = record.phase_seconds, record.seconds, progress.phase_seconds
    found = dict.fromkeys(PHASES, 0.0)
    found |= {"queue": known.get("queue", 0.0), "gate": known.get("gate", 0.0)}
    found |= {"prepare": ran.get("prepare", 0.0), "export": ran.get("export", 0.0)}
    found["evaluate_model"] = ran.get("evaluate", 0.0)
    wall_seconds = found["queue"] + _running_seconds(record)
    left = max(0.0, wall_seconds - sum(found.values()))
    # Two processes measured; where the trainer's parts exceed what the agent saw, they are scaled to it.
    spent = {phase: max(0.0, trainer.get(phase, 0.0)) for phase in TRAINING}
    scale = min(1.0, min(left, ran.get("train", left)) / max(sum(spent.values()), 1e-9))
    found |= {phase: seconds * scale for phase, seconds in spent.items()}
    found = {phase: round(seconds, 3) for phase, seconds in found.items()}
    rest = max(0.0, wall_seconds - sum(found.values()))
    found["hang"] = round(min(rest, _silent_seconds(record, progress)), 3)
    found["other"] = round(rest - found["hang"], 3)
    return found


def _silent_seconds(record: AttemptRecord, progress: Progress) -> float:
    """From the last sign of life of an attempt that hung until it was ended; all of training, if there was none."""
    if record.outcome is not Outcome.HANG:
        return 0.0
    last = progress.heartbeat
    return record.seconds.get("train", 0.0) if last is None else max(0.0, (record.ended or last) - last)


def _lost_in(record: AttemptRecord) -> int:
    """Steps of this attempt that no checkpoint holds."""
    first, last = record.first_step, record.last_step
    if first is None or last is None or record.outcome is Outcome.FINISHED:
        return 0
    return max(0, min(last - (record.last_checkpoint_step or 0), last - first))


def _lost_steps(records: Sequence[AttemptRecord]) -> Iterator[tuple[AttemptRecord, int]]:
    """Each attempt with the steps that were made again after it, or will have to be."""
    trained = [record for record in records if _has_loaded(record)]
    for record, following in pairwise(trained):
        # not the record's own `lost_steps`: a damaged checkpoint makes the next attempt step back further
        yield record, max(0, (record.last_step or 0) - (following.first_step or 0))
    if trained:
        yield trained[-1], _lost_in(trained[-1])


def _has_loaded(record: AttemptRecord) -> bool:
    """Whether it is known from where an attempt went on: before it has loaded, only where the one before it stood."""
    first, last = record.first_step, record.last_step or 0
    return first is not None and (last > first or first <= (record.last_checkpoint_step or 0))


def _seconds_per_step(record: AttemptRecord) -> float:
    steps = (record.last_step or 0) - (record.first_step or 0)
    if steps <= 0:
        return 0.0
    return _of(record, "training") / (steps - 1) if steps > 1 else _of(record, "first_step")


def _running_seconds(record: AttemptRecord) -> float:
    return float(max(0.0, (record.ended or 0.0) - (record.started or 0.0)))


def _of(record: AttemptRecord, phase: str) -> float:
    return float(record.phase_seconds.get(phase, 0.0))
