"""Passed or failed, and what the fault cost: a pure function of what a drill left behind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.drill.faults import Fault
from launcher.drill.run import KEEP, DrillResult
from rundir.metrics import Metrics
from rundir.outcome import Outcome
from rundir.quantities import count

ORDER_EXACT_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one drill showed. Seconds are None where they cannot be told."""

    fault: str
    passed: bool
    reason: str
    hit: str
    noticed_as: str
    hit_at_step: int
    resumed_from: int | None
    exactness: str | None
    steps_lost: int | None
    steps_compared: int
    detect_seconds: float | None
    restart_seconds: float | None
    back_seconds: float | None


def judge(fault: Fault, found: DrillResult, steps: int) -> Verdict:
    """Whether the run came back as it should have."""
    problems = list(_problems(fault, found, steps))
    pairs, exactness = _trained_twice(found), found.progress.exactness
    resumed_from, last = found.progress.resumed_step, _last_step(found, 0)
    detect, restart, back = _seconds(found)
    return Verdict(
        fault=fault.name,
        passed=not problems,
        reason="; ".join(problems) or _success_message(found, len(pairs)),
        hit=found.injected.hit,
        noticed_as=found.attempts[0].cause or "",
        hit_at_step=found.injected.step,
        resumed_from=resumed_from,
        exactness=exactness or None,
        steps_lost=None if resumed_from is None else max(0, last - resumed_from),
        steps_compared=len(pairs),
        detect_seconds=detect,
        restart_seconds=restart,
        back_seconds=back,
    )


def _problems(fault: Fault, found: DrillResult, steps: int) -> Iterator[str]:
    progress, outcomes = found.progress, [record.outcome for record in found.attempts]
    if outcomes[0] != fault.outcome:
        yield f"the fault was called {outcomes[0]}, not {fault.outcome}: {found.attempts[0].cause}"
    if outcomes[-1] is not Outcome.FINISHED or progress.step != steps:
        yield f"the run ended as {outcomes[-1]} at step {progress.step} of {steps}{_last_cause(found)}"
    elif len(outcomes) != 2:
        yield f"it took {count(len(outcomes), 'attempt')}: {', '.join(map(str, outcomes))}"
    if fault.outcome == Outcome.HANG and not found.num_stacks:
        yield "nobody wrote down where the ranks stood"
    yield from _wrong_start(found)
    yield from _lost_checkpoints(found)
    yield from _other_losses(found)


def _last_cause(found: DrillResult) -> str:
    cause = found.attempts[-1].cause
    return f" ({cause})" if cause else ""


def _wrong_start(found: DrillResult) -> Iterator[str]:
    wanted = None if found.expected is None else int(found.expected.removeprefix("step-"))
    if wanted is None:
        yield "there was no good checkpoint to go on from"
    elif found.progress.resumed_step != wanted:
        yield f"it went on from step {found.progress.resumed_step}, not from step {wanted}"
    damaged = found.injected.damaged
    if damaged and damaged not in found.set_aside:
        yield f"{damaged} was damaged, and nobody set it aside"


def _lost_checkpoints(found: DrillResult) -> Iterator[str]:
    """The newest that were published must be there; the one that the drill damaged counts if it was saved again."""
    sound = sorted((found.ever - {found.injected.damaged}) | found.left)
    if lost := [name for name in sound[-KEEP:] if name not in found.left]:
        yield f"checkpoints are gone: {', '.join(lost)}"


def _other_losses(found: DrillResult) -> Iterator[str]:
    exact = found.progress.exactness == "bit-exact"
    for step, before, after in _trained_twice(found):
        same = before == after if exact else math.isclose(before, after, rel_tol=ORDER_EXACT_TOLERANCE)
        if not same:
            yield f"step {step} has loss {before!r} before and {after!r} after"
            return


def _trained_twice(found: DrillResult) -> list[tuple[int, float, float]]:
    """Step, loss of the first attempt that trained it, loss of the last one."""
    losses: dict[int, list[float]] = defaultdict(list)
    for line in found.metrics:
        if line.step is not None and line.loss is not None:
            losses[line.step].append(line.loss)
    return [(step, both[0], both[-1]) for step, both in sorted(losses.items()) if len(both) > 1]


def _steps_of(found: DrillResult, attempts: range) -> list[Metrics]:
    return [line for line in found.metrics if line.is_training and line.attempt in attempts]


def _last_step(found: DrillResult, attempt: int) -> int:
    return max((line.step or 0 for line in _steps_of(found, range(attempt, attempt + 1))), default=found.injected.step)


def _seconds(found: DrillResult) -> tuple[float | None, float | None, float | None]:
    """From the fault until it was noticed; from then until the next attempt made a step; until the old step again."""
    noticed = found.attempts[0].ended
    later = _steps_of(found, range(1, len(found.attempts)))
    last = _last_step(found, 0)
    back = next((line.time for line in later if (line.step or 0) >= last), None)
    return (
        None if noticed is None else round(noticed - found.injected.time, 1),
        None if noticed is None or not later else round((later[0].time or noticed) - noticed, 1),
        None if back is None else round(back - found.injected.time, 1),
    )


def _success_message(found: DrillResult, num_compared: int) -> str:
    level = found.progress.exactness
    steps = count(num_compared, "step")
    compared = f"{steps} trained twice: the same loss ({level})" if num_compared else "no step was trained twice"
    aside = f"; {found.injected.damaged} was set aside" if found.injected.damaged else ""
    return f"went on from step {found.progress.resumed_step}; {compared}{aside}"
