"""How long a run needs to save and leave: a longest step, and twice a save, predicted first and then measured.

A warning that comes later than that costs everything since the last checkpoint, and nobody would see it before the
first preemption. So `resources.grace_seconds: auto` follows this number, and a smaller one is said to be too small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.slurm.submit.batch_script import AFTER_GRACE_SECONDS, WARNING_SLOP_SECONDS
from launcher.jobfile.schema import JobFile
from launcher.planner.choice.select import Choice
from launcher.planner.launch_spec import CHECKPOINT_BYTES_PER_PARAMETER
from launcher.planner.settings.defaults import Decision
from launcher.yamlfile.problems import SettingError
from rundir.attempts import AttemptRecord, read_attempts
from rundir.files import write_json
from rundir.paths import RunPaths
from rundir.plan import read_plan

SETTING = "resources.grace_seconds"
LEAST_SECONDS, MOST_SECONDS = 60, 3600
NODE_WRITE_BYTES_PER_SECOND = 1e9
"""What one node can count on from storage that it shares; measured saves replace it at the first resume."""
_SAVES = 2
"""One may be under way when the wish to stop arrives, and then the last one follows."""
_ROUND_TO_SECONDS = 10
_ATTEMPTS = 3
"""Measurements of so many attempts count: storage and machines change."""


@dataclass(frozen=True, kw_only=True)
class SaveTime:
    """The two numbers, in seconds, and in words where they come from."""

    step_seconds: float
    save_seconds: float
    source: str

    @property
    def needed_seconds(self) -> float:
        """Seconds from a stop request until the run has ended."""
        return self.step_seconds + _SAVES * self.save_seconds

    @property
    def words(self) -> str:
        """`a step of 4.2 s and two saves of 105 s each (840 GB at 1 GB/s on each of 8 nodes)`."""
        return f"a step of {self.step_seconds:.3g} s and two saves of {self.save_seconds:.3g} s each ({self.source})"

    def grace_seconds(self) -> int:
        """What `auto` takes."""
        rounded = math.ceil(self.needed_seconds / _ROUND_TO_SECONDS) * _ROUND_TO_SECONDS
        return min(MOST_SECONDS, max(LEAST_SECONDS, rounded))


def predicted(choice: Choice) -> SaveTime:
    """Save time before anything was measured: the checkpoint's size at an assumed rate."""
    candidate, nodes = choice.candidate, choice.step_layout.nodes
    trainable = candidate.prediction.num_trainable if candidate.prediction else 0
    size = CHECKPOINT_BYTES_PER_PARAMETER * trainable
    rate = f"{NODE_WRITE_BYTES_PER_SECOND / 1e9:g} GB/s on each of {nodes} nodes" if nodes > 1 else "1 GB/s"
    return SaveTime(
        step_seconds=candidate.speed.step_seconds if candidate.speed else 0.0,
        save_seconds=size / nodes / NODE_WRITE_BYTES_PER_SECOND,
        source=f"{size / 1e9:,.1f} GB at {rate}, not measured yet",
    )


def measured(attempts: Sequence[AttemptRecord]) -> SaveTime | None:
    """Save time measured by the newest attempts; None before the first save."""
    found = [record.longest_seconds for record in attempts if record.longest_seconds.get("save")]
    if not found:
        return None
    recent = found[-_ATTEMPTS:]
    step, save = (max(float(one.get(name, 0.0)) for one in recent) for name in ("step", "save"))
    return SaveTime(step_seconds=step, save_seconds=save, source="the longest that were measured")


def grace_of(job: JobFile, needs: SaveTime) -> tuple[int, list[Decision]]:
    """The grace period in seconds, and notes about it."""
    asked = job.resources.grace_seconds
    if asked == "auto":
        seconds = needs.grace_seconds()
        return seconds, [Decision(setting=SETTING, value=seconds, reason=f"{needs.words}, at least {LEAST_SECONDS} s")]
    return asked, list(too_short(asked, needs))


def too_short(grace_seconds: float, needs: SaveTime) -> Iterator[Decision]:
    """A note if the grace period is shorter than a step and two saves."""
    if grace_seconds < needs.needed_seconds:
        reason = f"TOO SHORT: {needs.words} take {needs.needed_seconds:.0f} s; what is not saved is trained again"
        yield Decision(setting=SETTING, value=f"{grace_seconds:g}", reason=reason)


def site_grace_too_short(site_seconds: int | None, needs: SaveTime) -> Iterator[Decision]:
    """A note if the site's own grace period is shorter than needed."""
    if site_seconds is not None and site_seconds < needs.needed_seconds:
        reason = (
            f"the site gives {site_seconds} s before it takes machines away, and {needs.words} take "
            f"{needs.needed_seconds:.0f} s: a preemption costs what was trained since the last checkpoint, which "
            "checkpoint.every_minutes bounds"
        )
        yield Decision(setting="preemption", value=f"{site_seconds} s", reason=reason)


def adjust(run_dir: Path) -> list[Decision]:
    """Before a run goes on: what its own saves have taught. An `auto` follows it; a number of the user's is judged.

    Raises:
        SettingError: the walltime leaves no time to train.
    """
    plan, needs = read_plan(run_dir), measured(read_attempts(run_dir))
    if needs is None:
        return []
    before = plan.launch.grace_seconds
    if not plan.launch.grace_is_auto:
        return list(too_short(before, needs))
    launch = plan.launch.changed(grace_seconds=needs.grace_seconds())
    if launch.grace_seconds == before:
        return []
    refuse_no_time(launch.to_json())
    write_json(RunPaths(run_dir).plan, plan.changed(launch=launch))
    return [Decision(setting=SETTING, value=launch.grace_seconds, reason=f"was {before:g}; {needs.words}")]


def refuse_no_time(launch: Mapping[str, Any]) -> None:
    """Refuses a walltime that leaves no time for training.

    Raises:
        SettingError: the scheduler would warn at once.
    """
    walltime = launch.get("walltime_seconds")
    lead = launch.get("lead_seconds") or launch["grace_seconds"] + AFTER_GRACE_SECONDS
    if launch.get("backend") == "slurm" and walltime is not None and walltime <= lead + WARNING_SLOP_SECONDS:
        raise SettingError(
            "resources.walltime",
            f"leaves no time to train: SLURM warns {lead} s before the end (resources.grace_seconds is "
            f"{launch['grace_seconds']:g}), and up to {WARNING_SLOP_SECONDS} s earlier",
            got=f"{walltime} s",
            remedy=f"More than {lead + WARNING_SLOP_SECONDS} s, or less resources.grace_seconds.",
        )
