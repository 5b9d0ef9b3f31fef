"""Where a run's data are tokenised, how long that takes, and what idle GPUs cost meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.planner.layouts.candidates import Candidate
from launcher.planner.settings.defaults import Decision
from rundir.quantities import count, rounded_duration

TOKENS_PER_SECOND = 100_000
"""Of one process: what a core that is half busy otherwise was seen to do. Tokenizers differ by a factor of three."""
WORTH_SECONDS = 60.0
"""Waiting for less is not worth a job of its own."""
SETTING = "launch.prepare"
INSIDE = "inside"
_WAYS = {"slurm": "`prepare: {partition: ...}`", "kubernetes": "`prepare: {where: job}`"}


def tokenising(launch: Mapping[str, Any], tokens: float, num_proc: int, candidate: Candidate) -> Iterator[Decision]:
    """Says where the data of a cluster's run are tokenised, and what that takes.

    Args:
        launch: plan.json's, with the site's own part.
        tokens: Of all rows; 0 where nobody can know.
        num_proc: Processes that tokenise in the run's own job.
        candidate: The plan that is taken.
    """
    backend = launch.get("backend")
    if backend is None:
        return
    asked = (launch.get(str(backend)) or {}).get("prepare") or {}
    where, gpus = (
        asked.get("where", INSIDE),
        candidate.step_layout.world_size if candidate.step_layout.device == "cuda" else 0,
    )
    seconds = tokens / TOKENS_PER_SECOND / (asked.get("cpus", num_proc) if where == "job" else num_proc)
    takes = "for how long is not known"
    if tokens:
        takes = f"about {rounded_duration(max(60, seconds), hours_from=3600, minutes=0)} for {count(tokens, 'token')}"
    if where == "job":
        held = f"; {_cost(seconds, gpus, candidate)} less than inside" if gpus and tokens else ""
        place = f"on partition {asked['partition']}, " if asked.get("partition") else ""
        cores = count(asked.get("cpus", 1), "core")
        words = f"a job of its own {place}{cores}, {takes}, before the run's is taken{held}"
        yield Decision(setting=SETTING, value=where, reason=words)
    elif where == "submit":
        yield Decision(setting=SETTING, value=where, reason=f"on this machine before anything is queued, {takes}")
    elif gpus and seconds > WORTH_SECONDS:
        waiting = f"{count(gpus, 'GPU')} {'waits' if gpus == 1 else 'wait'}"
        words = f"{takes} while {waiting} ({_cost(seconds, gpus, candidate)})"
        reason = f"{words}; {_WAYS[backend]} in the site profile does it before"
        yield Decision(setting=SETTING, value=where, reason=reason)


def _cost(seconds: float, gpus: int, candidate: Candidate) -> str:
    hours = seconds * gpus / 3600
    price = candidate.gpu.price if candidate.gpu else None
    return f"{hours:,.1f} GPU-hours" + (f", {hours * price:,.2f} USD" if price else "")
