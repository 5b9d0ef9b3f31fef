"""Where an attempt's time went, and how much of a run's time became steps that were kept. Pure functions.

Goodput is useful seconds over all seconds that the run held or waited for machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cluster.contract import Outcome
from cluster.rundir import of_attempt

BEFORE = ("queue", "gate", "prepare")
TRAINING = ("launch", "import", "rendezvous", "load", "first_step", "training", "save", "evaluate")
AFTER = ("export", "evaluate_model", "hang", "other")
PHASES = (*BEFORE, *TRAINING, *AFTER)
"""All that an attempt's time can go into; they add up to its seconds, the wait for it included."""
_BEFORE_TRAINING = ("preparing", "starting", "loading")
PRIOR_SECONDS = 6 * 3600.0
_NO_FAILURE = (Outcome.FINISHED, Outcome.STOPPED, None)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Goodput:
    """A run's account over all of its attempts."""

    wall_seconds: float
    useful_seconds: float
    goodput: float
    lost_steps: int
    lost_seconds: float
    by_phase: dict[str, float] = field(default_factory=dict)


def account(record: Record, progress: Record) -> dict[str, Any]:
    """What a closed record says about its time: `phase_seconds`, `lost_steps`, `lost_seconds`.

    `progress` is what the trainer wrote in this attempt, empty when it wrote nothing. The record holds the
    seconds of `queue` and `gate` already.
    """
    phases = _phase_seconds(record, progress)
    lost_steps = _lost_in(record)
    lost_seconds = lost_steps * _seconds_per_step({**record, "phase_seconds": phases})
    return {"phase_seconds": phases, "lost_steps": lost_steps, "lost_seconds": round(lost_seconds, 3)}


def summarise(records: Sequence[Record]) -> Goodput:
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


def mean_time_between_failures_seconds(records: Sequence[Record], prior_seconds: float = PRIOR_SECONDS) -> float:
    """How long an attempt can expect to live. The prior speaks while little has been seen."""
    running = sum(_running_seconds(record) for record in records)
    failures = sum(record.get("outcome") not in _NO_FAILURE for record in records)
    return (running + prior_seconds) / (failures + 1)


def steps_of(progress: Record | None, attempt: int) -> dict[str, Any]:
    """First, last and last saved step of an attempt; None, not 0, when it told nothing. Its longest step and save."""
    mine = of_attempt(progress, attempt)
    return {
        "first_step": _first_step(mine),
        "last_step": mine.get("step"),
        "last_checkpoint_step": (mine.get("last_checkpoint") or {}).get("step"),
        "longest_seconds": mine.get("longest_seconds") or {},
    }


def _first_step(mine: Record) -> int | None:
    """Where the attempt began: where the run stands, when it has not trained, as `step` is older than it then."""
    resumed = mine.get("resumed_from")
    resumed = resumed.get("step") if isinstance(resumed, dict) else resumed
    if resumed is not None or not mine:
        return resumed
    return 0 if has_trained(mine) else mine.get("step")


def has_trained(mine: Record) -> bool:
    """Whether an attempt has come as far as its first step."""
    if spent := mine.get("phase_seconds"):  # tells it even of an attempt that failed while loading
        return bool(spent.get("first_step") or spent.get("training"))
    return mine.get("state") not in _BEFORE_TRAINING


def _phase_seconds(record: Record, progress: Record) -> dict[str, float]:
    known, ran = record.get("phase_seconds") or {}, record.get("seconds") or {}
    trainer = progress.get("phase_seconds") or {}
    found = dict.fromkeys(PHASES, 0.0)
    found |= {"queue": known.get("queue", 0.0), "gate": known.get("gate", 0.0)}
    found |= {"prepare": ran.get("prepare", 0.0), "export": ran.get("export", 0.0)}
    found["evaluate_model"] = ran.get("evaluate", 0.0)
    wall_seconds = found["queue"] + _running_seconds(record)
    left = max(0.0, wall_seconds - sum(found.values()))
    # Two processes measured; where the trainer's parts exceed what the agent saw, they are scaled to it.
    spent = {phase: max(0.0, trainer.get(phase) or 0.0) for phase in TRAINING}
    scale = min(1.0, min(left, ran.get("train", left)) / max(sum(spent.values()), 1e-9))
    found |= {phase: seconds * scale for phase, seconds in spent.items()}
    found = {phase: round(seconds, 3) for phase, seconds in found.items()}
    rest = max(0.0, wall_seconds - sum(found.values()))
    found["hang"] = round(min(rest, _silent_seconds(record, progress)), 3)
    found["other"] = round(rest - found["hang"], 3)
    return found


def _silent_seconds(record: Record, progress: Record) -> float:
    """From the last sign of life of an attempt that hung until it was ended; all of training, if there was none."""
    if record.get("outcome") != Outcome.HANG:
        return 0.0
    last, training = progress.get("heartbeat"), (record.get("seconds") or {}).get("train") or 0.0
    return max(0.0, (record.get("ended") or last) - last) if isinstance(last, int | float) else training


def _lost_in(record: Record) -> int:
    """Steps of this attempt that no checkpoint holds."""
    first, last = record.get("first_step"), record.get("last_step")
    if first is None or last is None or record.get("outcome") == Outcome.FINISHED:
        return 0
    return int(max(0, min(last - (record.get("last_checkpoint_step") or 0), last - first)))


def _lost_steps(records: Sequence[Record]) -> Iterator[tuple[Record, int]]:
    """Each attempt with the steps that were made again after it, or will have to be."""
    trained = [record for record in records if _has_loaded(record)]
    for record, following in pairwise(trained):
        # not the record's own `lost_steps`: a damaged checkpoint makes the next attempt step back further
        yield record, max(0, (record.get("last_step") or 0) - following["first_step"])
    if trained:
        yield trained[-1], _lost_in(trained[-1])


def _has_loaded(record: Record) -> bool:
    """Whether it is known from where an attempt went on: before it has loaded, only where the one before it stood."""
    first, last = record.get("first_step"), record.get("last_step") or 0
    return first is not None and (last > first or first <= (record.get("last_checkpoint_step") or 0))


def _seconds_per_step(record: Record) -> float:
    steps = (record.get("last_step") or 0) - (record.get("first_step") or 0)
    if steps <= 0:
        return 0.0
    return _of(record, "training") / (steps - 1) if steps > 1 else _of(record, "first_step")


def _running_seconds(record: Record) -> float:
    return float(max(0.0, (record.get("ended") or 0.0) - (record.get("started") or 0.0)))


def _of(record: Record, phase: str) -> float:
    return float((record.get("phase_seconds") or {}).get(phase) or 0.0)
