"""What can go wrong, drawn from a seed: every kind with its parameters, so that a campaign can be repeated."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from trainer.checkpoint.fault_points import POINTS

ENDINGS = {
    "kill one": 3,
    "kill all": 3,
    "kill at point": 8,
    "terminate one": 3,
    "stop file": 1,
    "freeze one": 1,
    "terminate at point": 2,
}
"""Kinds that end an attempt, with their weights. Every attempt with faults gets one."""
STORAGE = {"refuse at point": 4, "disk full": 3, "slow storage": 1}
"""Kinds that make saves fail or wait while training goes on. They come before an ending, or alone."""
AT_REST = {
    "bit flip": 3,
    "truncation": 2,
    "missing file": 2,
    "extra shard": 1,
    "half a manifest": 1,
    "stale folders": 2,
    "scrambled times": 1,
    "foreign entries": 1,
    "damaged progress": 1,
}
"""Kinds of damage between two attempts."""
DAMAGE = ("bit flip", "truncation", "missing file", "extra shard", "half a manifest")
"""Kinds after which the newest checkpoint must be stepped over."""
OF_EVERY_RANK = ("copied", "file open", "file half", "file unsynced", "file synced", "file read back")
REFUSALS = ("ENOSPC", "EDQUOT", "EIO")
AT_REST_SHARE, STORAGE_SHARE, NO_ENDING_SHARE = 0.35, 0.3, 0.1


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: a key of `ENDINGS`, `STORAGE` or `AT_REST`.
        step: steps after the attempt's first at which it comes or is armed.
        delay_seconds: from there until a signal is sent, so that it falls anywhere within a step.
        rank: which rank, modulo the number of ranks.
        point: named point in the life of a checkpoint.
        place: 0 to 1, where in a file or a disk.
        detail: errno of a refusal.
    """

    kind: str
    step: int = 1
    delay_seconds: float = 0.0
    rank: int = 0
    point: str = POINTS[0]
    place: float = 0.5
    detail: str = REFUSALS[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(rng: random.Random) -> tuple[list[Fault], Fault | None]:
    """The next attempt's faults: its own, and the one of what it leaves behind, if any."""
    faults = []
    if rng.random() < STORAGE_SHARE:
        faults.append(_fault(rng, STORAGE))
    if not faults or rng.random() >= NO_ENDING_SHARE:
        faults.append(_fault(rng, ENDINGS))
    return faults, _fault(rng, AT_REST) if rng.random() < AT_REST_SHARE else None


def _fault(rng: random.Random, kinds: dict[str, int]) -> Fault:
    return Fault(
        kind=rng.choices(list(kinds), list(kinds.values()))[0],
        step=rng.randint(1, 7),
        delay_seconds=rng.random() * 0.03,
        rank=rng.randrange(4),
        point=rng.choice(POINTS),
        place=rng.random(),
        detail=rng.choice(REFUSALS),
    )
