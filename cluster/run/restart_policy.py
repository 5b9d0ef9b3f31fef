"""Whether a run that ended is started again: one pure state machine, the same for every backend.

It is told the attempts' records (attempts.jsonl, oldest first, the newest one closed) and the time, and knows
nothing else. docs/decisions/0006-restart-policy.md says why the rules are what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from rundir.attempts import AttemptRecord, Decision, Exclusion
from rundir.plan import RestartLimits
from rundir.quantities import count

WINDOW_SECONDS = 24 * 3600.0
MAX_BACKOFF_SECONDS = 600.0
_SUSPICIONS_TO_EXCLUDE = 2
_CAUSE_CHARACTERS = 160


def decide(records: Sequence[AttemptRecord], limits: RestartLimits, now: float) -> Decision:
    """Restart or stop, after the newest of `records`, which has its outcome."""
    exclude = exclusions(records, now)
    reason = _reason_to_stop(records, limits, now)
    if reason:
        return Decision.to_stop(reason, exclude)
    wait_seconds = _wait_seconds(records, limits)
    step = best_step(records)
    where = f"from step {step}" if step else "from the beginning"
    return Decision.to_restart(f"{records[-1].outcome}: going on {where}", wait_seconds, exclude)


def exclusions(records: Sequence[AttemptRecord], now: float) -> list[Exclusion]:
    """Nodes to keep away from: hard evidence counts at once, suspicion when two attempts share it."""
    found: dict[str, Exclusion] = {}
    suspected: dict[str, list[str]] = {}
    for record in records:
        until = _ended(record) + WINDOW_SECONDS
        if until <= now:
            continue
        for node, line in _blamed(record, "node"):
            found[node] = Exclusion(node=node, evidence=line, until=until)
        for node, line in dict(_blamed(record, "suspect")).items():
            suspected.setdefault(node, []).append(line)
            if len(suspected[node]) >= _SUSPICIONS_TO_EXCLUDE and node not in found:
                times = f"suspected in {count(len(suspected[node]), 'attempt')}, last: "
                found[node] = Exclusion(node=node, evidence=times + line, until=until)
    return list(found.values())


def best_step(records: Sequence[AttemptRecord]) -> int:
    """The furthest step that any of these attempts published a checkpoint of; 0 without one."""
    return max((record.last_checkpoint_step or 0 for record in records), default=0)


def made_progress(records: Sequence[AttemptRecord]) -> list[bool]:
    """For each attempt, whether its last checkpoint lies beyond the best one before it."""
    best, found = 0, []
    for record in records:
        step = record.last_checkpoint_step or 0
        found.append(step > best)
        best = max(best, step)
    return found


def _reason_to_stop(records: Sequence[AttemptRecord], limits: RestartLimits, now: float) -> str:
    outcome = records[-1].outcome
    if outcome is not None and outcome.is_terminal:
        return outcome.reason_to_stop
    if not limits.auto:
        return "restarting is turned off (launch.restart.auto)"
    return _stuck(records, limits) or _too_many_faults(records, limits, now)


def _stuck(records: Sequence[AttemptRecord], limits: RestartLimits) -> str:
    """The report, when the run has not advanced for too many attempts in a row."""
    newest_first = list(takewhile(lambda life: not life[1], _newest_first(records)))
    without = [record for record, _ in reversed(newest_first)]
    if len(without) < max(1, limits.max_attempts_without_progress):
        return ""
    numbers = ", ".join(str(record.number) for record in without)
    attempts = f"attempts {numbers} all" if len(without) > 1 else f"attempt {numbers}"
    step = best_step(records)
    beyond = f"a checkpoint beyond step {step}" if step else "the first checkpoint"
    return f"{attempts} ended before {beyond}; last causes: {_causes(without)}"


def _too_many_faults(records: Sequence[AttemptRecord], limits: RestartLimits, now: float) -> str:
    if not _is_fault(records[-1]):
        return ""
    faults = [record for record, _ in _newest_first(records) if _is_fault(record)][::-1]
    recent = [record for record in faults if now - _ended(record) < WINDOW_SECONDS]
    if len(recent) <= limits.max_crashes:
        return ""
    return f"{len(recent)} crashes or hangs within 24 hours (max_crashes is {limits.max_crashes}): {_causes(recent)}"


def _wait_seconds(records: Sequence[AttemptRecord], limits: RestartLimits) -> float:
    """Nothing after a preemption that made progress; else doubling with every trouble in a row."""
    good = (progressed and not _is_fault(record) for record, progressed in _newest_first(records))
    troubles = len(list(takewhile(lambda is_good: not is_good, good)))
    if troubles == 0:
        return 0.0
    return float(min(MAX_BACKOFF_SECONDS, limits.backoff_seconds * 2.0 ** min(troubles - 1, 30)))


def _newest_first(records: Sequence[AttemptRecord]) -> Iterator[tuple[AttemptRecord, bool]]:
    """The attempts that one `submit` led to, and whether each made progress: a new submit grants a new budget."""
    lives = list(zip(records, made_progress(records), strict=True))[::-1]
    return takewhile(lambda life: life[0].submitted == records[-1].submitted, lives)


def _causes(records: Sequence[AttemptRecord]) -> str:
    """What ended these attempts, each cause once, the newest first."""
    lines = [record.cause or str(record.outcome) for record in reversed(records)]
    first_lines = [line.splitlines()[0][:_CAUSE_CHARACTERS] for line in lines]
    return "; ".join(dict.fromkeys(first_lines))


def _blamed(record: AttemptRecord, whom: str) -> Iterator[tuple[str, str]]:
    for item in record.evidence:
        if item.blames == whom and item.node:
            yield item.node, item.line or item.kind


def _ended(record: AttemptRecord) -> float:
    return record.ended or record.started or 0.0


def _is_fault(record: AttemptRecord) -> bool:
    return record.outcome is not None and record.outcome.is_fault
