"""Show a run's goodput: where its time went, and how much training its restarts lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.run.goodput import Goodput, summarise, with_account, with_steps
from rundir.attempts import AttemptRecord
from rundir.outcome import Outcome
from rundir.progress import Progress
from rundir.quantities import count

GROUPS = {
    "starting": ("launch", "import", "rendezvous", "load", "first_step"),
    "saving": ("save",),
    "data, export, evaluation": ("prepare", "export", "evaluate", "evaluate_model"),
    "waiting for machines": ("queue",),
    "hanging": ("hang",),
    "other": ("gate", "other"),
}
"""Groups of the phases outside training, for charts and tables."""
USEFUL, LOST = "training that counts", "training done twice"
CAUSE_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A part of a stacked bar; `share` is in per cent of the whole."""

    label: str
    seconds: float
    share: float


def account(records: Sequence[AttemptRecord], progress: Progress | None = None) -> Goodput | None:
    """Return the goodput of a run; None before any attempt has taken time.

    Args:
        records: All attempts.
        progress: Progress of the trainer; with it, a running attempt counts until its last heartbeat.
    """
    known = [record for record in records if not record.is_open]
    if progress and records and records[-1].is_open and progress.attempt == records[-1].number:
        known.append(_so_far(records[-1], progress))
    found = summarise(known)
    return found if found.wall_seconds > 0 else None


def _so_far(record: AttemptRecord, progress: Progress) -> AttemptRecord:
    """Return a running attempt's record as if it had just finished, so that no step counts as lost yet."""
    until = with_steps(record, progress).changed(outcome=Outcome.FINISHED, ended=progress.heartbeat)
    return with_account(until, progress)


def goodput_text(found: Goodput) -> str:
    """Return for example `93 % (lost 4 steps, 12 s)`."""
    return f"{percent(found.goodput)} (lost {lost(found.lost_steps, found.lost_seconds)})"


def lost(steps: int, seconds: float) -> str:
    """Return lost steps and seconds as text: `4 steps, 12 s`, or `nothing`."""
    if not steps:
        return "nothing"
    return f"{count(steps, 'step')}, " + (f"{seconds:.0f} s" if seconds >= 1 else "< 1 s")


def percent(share: float) -> str:
    """Format a share (0 to 1) in per cent, with one decimal below 10 %."""
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def decision_text(records: Sequence[AttemptRecord]) -> str | None:
    """Return the restart policy's last decision as text, with its reason and the excluded nodes."""
    last = next((record for record in reversed(records) if not record.is_open), AttemptRecord())
    decision = last.decision
    if not decision or last.outcome is Outcome.FINISHED:
        return None  # that a finished run is not restarted goes without saying
    wait = f" in {decision.wait_seconds:.0f} s" if decision.wait_seconds else ""
    nodes = [excluded.node for excluded in decision.exclude]
    without = f"; without {', '.join(nodes)}" if nodes else ""
    return f"{decision.action}{wait}: {decision.reason}{without}"


def slices(found: Goodput) -> list[Slice]:
    """Return the run's time as the parts of a stacked bar, without empty ones."""
    parts = {USEFUL: found.useful_seconds, LOST: found.lost_seconds} | grouped(found.by_phase)
    whole = sum(parts.values()) or 1.0
    return [
        Slice(label=label, seconds=seconds, share=100 * seconds / whole) for label, seconds in parts.items() if seconds
    ]


def grouped(phases: Mapping[str, float]) -> dict[str, float]:
    """Seconds beside training, by group."""
    return {label: sum(phases.get(phase) or 0.0 for phase in names) for label, names in GROUPS.items()}


def attempt_phases(record: AttemptRecord) -> list[tuple[str, float]]:
    """Return the seconds of one attempt by group, training first; groups under half a second are left out."""
    phases = record.phase_seconds
    if "training" not in phases:  # it is alive, or was written by an older version
        return list(record.seconds.items())
    parts = {"training": phases["training"]} | grouped(phases)
    return [(label, seconds) for label, seconds in parts.items() if seconds >= 0.5]


def lost_text(record: AttemptRecord) -> str:
    """Return the steps that were trained again after an attempt, with their seconds, as text."""
    return "" if record.lost_steps is None else lost(record.lost_steps, record.lost_seconds or 0.0)


def short_cause(record: AttemptRecord) -> str:
    """Return the first line of an attempt's cause, at most `CAUSE_CHARACTERS` long."""
    text = ((record.cause or "").splitlines() or [""])[0]
    return text if len(text) <= CAUSE_CHARACTERS else text[: CAUSE_CHARACTERS - 3] + "..."
