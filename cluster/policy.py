"""Whether a run that ended is started again: one pure state machine, the same for every backend.

It is told the attempts' records (attempts.jsonl, oldest first, the newest one closed) and the time, and knows
nothing else. docs/decisions/0006-restart-policy.md says why the rules are what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

from cluster.contract import ClusterError, Outcome
from rundir.quantities import count

RESTART = "restart"
STOP = "stop"
WINDOW_SECONDS = 24 * 3600.0
MAX_BACKOFF_SECONDS = 600.0
_NEVER = {
    Outcome.FINISHED: "the run is finished",
    Outcome.STOPPED: "the run was stopped on request",
    Outcome.FATAL: "the same job would fail the same way again",
}
_FAULTS = (Outcome.CRASHED, Outcome.HANG)
_SUSPICIONS_TO_EXCLUDE = 2
_CAUSE_CHARACTERS = 160

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """plan.json's `launch.restart`."""

    max_crashes: int = 3
    """Crashes and hangs in 24 hours after which the run goes on; the next one stops it."""
    max_attempts_without_progress: int = 3
    """So many attempts in a row that did not advance the checkpoint stop the run."""
    auto: bool = True
    """False: nothing is ever restarted."""
    backoff_seconds: float = 10.0
    """The first wait after a failure; it doubles up to ten minutes."""

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> Limits:
        """Reads them out of a plan; ClusterError names a value that cannot be used."""
        launch = plan.get("launch")
        given = (launch.get("restart") if isinstance(launch, dict) else None) or {}
        known = {field.name: given[field.name] for field in fields(cls) if field.name in given}
        for name, value in known.items():
            if not isinstance(value, int | float) or value < 0:
                raise ClusterError(f"plan.json: launch.restart.{name} is {value!r}, not a number", "plan the job again")
        return cls(**known)


@dataclass(frozen=True)
class Exclusion:
    """A node that must not be used until a point in Unix time, and why."""

    node: str
    evidence: str
    until: float


@dataclass(frozen=True)
class Decision:
    """What happens to the run now. `reason` is for people."""

    action: str  # restart | stop
    reason: str
    wait_seconds: float = 0.0
    exclude: tuple[Exclusion, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """How it is kept in the attempt's record."""
        exclude = [{"node": node.node, "evidence": node.evidence, "until": node.until} for node in self.exclude]
        return {"action": self.action, "reason": self.reason, "wait_seconds": self.wait_seconds, "exclude": exclude}


def decide(records: Sequence[Record], limits: Limits, now: float) -> Decision:
    """Restart or stop, after the newest of `records`, which has its outcome."""
    exclude = tuple(exclusions(records, now))
    reason = _reason_to_stop(records, limits, now)
    if reason:
        return Decision(STOP, reason, exclude=exclude)
    wait_seconds = _wait_seconds(records, limits)
    step = best_step(records)
    where = f"from step {step}" if step else "from the beginning"
    return Decision(RESTART, f"{records[-1]['outcome']}: going on {where}", wait_seconds, exclude)


def exclusions(records: Sequence[Record], now: float) -> list[Exclusion]:
    """Nodes to keep away from: hard evidence counts at once, suspicion when two attempts share it."""
    found: dict[str, Exclusion] = {}
    suspected: dict[str, list[str]] = {}
    for record in records:
        until = _ended(record) + WINDOW_SECONDS
        if until <= now:
            continue
        for node, line in _blamed(record, "node"):
            found[node] = Exclusion(node, line, until)
        for node, line in dict(_blamed(record, "suspect")).items():
            suspected.setdefault(node, []).append(line)
            if len(suspected[node]) >= _SUSPICIONS_TO_EXCLUDE and node not in found:
                times = f"suspected in {count(len(suspected[node]), 'attempt')}, last: "
                found[node] = Exclusion(node, times + line, until)
    return list(found.values())


def best_step(records: Sequence[Record]) -> int:
    """The furthest step that any of these attempts published a checkpoint of; 0 without one."""
    return max((record.get("last_checkpoint_step") or 0 for record in records), default=0)


def made_progress(records: Sequence[Record]) -> list[bool]:
    """For each attempt, whether its last checkpoint lies beyond the best one before it."""
    best, found = 0, []
    for record in records:
        step = record.get("last_checkpoint_step") or 0
        found.append(step > best)
        best = max(best, step)
    return found


def _reason_to_stop(records: Sequence[Record], limits: Limits, now: float) -> str:
    outcome = records[-1]["outcome"]
    if outcome in _NEVER:
        return _NEVER[Outcome(outcome)]
    if not limits.auto:
        return "restarting is turned off (launch.restart.auto)"
    return _stuck(records, limits) or _too_many_faults(records, limits, now)


def _stuck(records: Sequence[Record], limits: Limits) -> str:
    """The report, when the run has not advanced for too many attempts in a row."""
    newest_first = list(takewhile(lambda life: not life[1], _newest_first(records)))
    without = [record for record, _ in reversed(newest_first)]
    if len(without) < max(1, limits.max_attempts_without_progress):
        return ""
    numbers = ", ".join(str(record["attempt"]) for record in without)
    attempts = f"attempts {numbers} all" if len(without) > 1 else f"attempt {numbers}"
    step = best_step(records)
    beyond = f"a checkpoint beyond step {step}" if step else "the first checkpoint"
    return f"{attempts} ended before {beyond}; last causes: {_causes(without)}"


def _too_many_faults(records: Sequence[Record], limits: Limits, now: float) -> str:
    if records[-1]["outcome"] not in _FAULTS:
        return ""
    faults = [record for record, _ in _newest_first(records) if record["outcome"] in _FAULTS][::-1]
    recent = [record for record in faults if now - _ended(record) < WINDOW_SECONDS]
    if len(recent) <= limits.max_crashes:
        return ""
    return f"{len(recent)} crashes or hangs within 24 hours (max_crashes is {limits.max_crashes}): {_causes(recent)}"


def _wait_seconds(records: Sequence[Record], limits: Limits) -> float:
    """Nothing after a preemption that made progress; else doubling with every trouble in a row."""
    good = (progressed and record["outcome"] not in _FAULTS for record, progressed in _newest_first(records))
    troubles = len(list(takewhile(lambda is_good: not is_good, good)))
    if troubles == 0:
        return 0.0
    return float(min(MAX_BACKOFF_SECONDS, limits.backoff_seconds * 2.0 ** min(troubles - 1, 30)))


def _newest_first(records: Sequence[Record]) -> Iterator[tuple[Record, bool]]:
    """The attempts that one `submit` led to, and whether each made progress: a new submit grants a new budget."""
    lives = list(zip(records, made_progress(records), strict=True))[::-1]
    return takewhile(lambda life: life[0].get("submitted") == records[-1].get("submitted"), lives)


def _causes(records: Sequence[Record]) -> str:
    """What ended these attempts, each cause once, the newest first."""
    lines = [str(record.get("cause") or record["outcome"]) for record in reversed(records)]
    first_lines = [line.splitlines()[0][:_CAUSE_CHARACTERS] for line in lines]
    return "; ".join(dict.fromkeys(first_lines))


def _blamed(record: Record, whom: str) -> Iterator[tuple[str, str]]:
    for item in record.get("evidence") or []:
        if item.get("blames") == whom and item.get("node"):
            yield str(item["node"]), str(item.get("line") or item.get("kind"))


def _ended(record: Record) -> float:
    return float(record.get("ended") or record.get("started") or 0.0)
