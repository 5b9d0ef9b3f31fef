"""What a learning-rate schedule may be told, and how shares become steps. Imports no torch: plans ask, too.

Names and meanings are those of Transformers' `lr_scheduler_kwargs`. Two things are defined here and not there: step 1
learns (the warm-up of W steps reaches the peak in step W, so its first rate is peak / W and not 0), and the lengths of
`warmup_stable_decay` may be shares of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rundir.quantities import count
from trainer.config import TrainingConfig
from trainer.errors import UserError

TYPE, ARGUMENTS, WARMUP = "training.lr_scheduler_type", "training.lr_scheduler_kwargs", "training.warmup_steps"
PHASES = ("num_stable_steps", "num_decay_steps")
CURVES = ("linear", "cosine", "1-sqrt")
FEW_STEPS = 100
"""Below this a run is warned of: the schedule has no room, and AdamW's averages have hardly settled."""
DEFAULT_WARMUP = TrainingConfig.model_fields["warmup_steps"].default

Rule = tuple[Callable[[Any], bool], str]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_POSITIVE: Rule = (lambda value: _number(value) and value > 0, "a number above 0")
_SHARE: Rule = (lambda value: _number(value) and 0 <= value <= 1, "a share from 0 to 1")
_RATE: Rule = (lambda value: _number(value) and value >= 0, "a learning rate, 0 or above")
_COUNT: Rule = (lambda value: _number(value) and value >= 1 and value == int(value), "a whole number of at least 1")
_CURVE: Rule = (lambda value: value in CURVES, f"one of {', '.join(CURVES)}")
_LENGTH: Rule = (
    lambda value: _number(value) and (0 <= value < 1 or value == int(value) > 0),
    "a number of steps, or below 1 a share of all steps",
)

_MIN_LR: dict[str, Rule] = {"num_cycles": _POSITIVE, "min_lr": _RATE, "min_lr_rate": _SHARE}
KNOWN: dict[str, dict[str, Rule]] = {
    "linear": {},
    "cosine": {"num_cycles": _POSITIVE},
    "cosine_with_restarts": {"num_cycles": _COUNT},
    "polynomial": {"lr_end": _RATE, "power": _POSITIVE},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": _POSITIVE},
    "cosine_with_min_lr": _MIN_LR,
    "cosine_warmup_with_min_lr": {**_MIN_LR, "warmup_lr_rate": (lambda v: _number(v) and 0 < v <= 1, "above 0, to 1")},
    "warmup_stable_decay": {
        "num_stable_steps": _LENGTH,
        "num_decay_steps": _LENGTH,
        "warmup_type": _CURVE,
        "decay_type": _CURVE,
        "min_lr_ratio": _SHARE,
        "num_cycles": _POSITIVE,
    },
}
"""Every schedule that is a function of the step, with its arguments and what each may be."""


@dataclass(frozen=True, kw_only=True)
class ScheduleProblem:
    """Something that a schedule cannot be given.

    Attributes:
        setting: the setting's dotted name in the job file.
        message: what is wrong, without the setting's name.
        got: the value that was found; None when there is none to show.
        remedy: what to write instead.
    """

    setting: str
    message: str
    got: Any = None
    remedy: str = ""

    def __str__(self) -> str:
        got = "" if self.got is None else f" (got {self.got})"
        return f"{self.setting}: {self.message}{got}"


def check_schedule(training: TrainingConfig, max_steps: int | None = None) -> list[ScheduleProblem]:
    """What is wrong with the schedule of a job; empty when it can be followed and step 1 learns.

    Args:
        training: the section, `learning_rate` decided or still `auto`.
        max_steps: steps of the whole run; None where nobody knows them yet, which leaves lengths unchecked.
    """
    problems = [*_of_arguments(training), *_of_rates(training), *_of_warmup(training)]
    if max_steps is not None and not problems:
        problems += _of_length(training, max_steps)
    return problems


def refuse_schedule(training: TrainingConfig, max_steps: int) -> None:
    """
    Raises:
        UserError: the schedule cannot be followed; all that is wrong is in it.
    """
    if problems := check_schedule(training, max_steps):
        remedies = dict.fromkeys(problem.remedy for problem in problems if problem.remedy)
        raise UserError("; ".join(map(str, problems)), remedy=" ".join(remedies) or "change it in the job file")


def warmup_count(training: TrainingConfig, max_steps: int) -> int:
    """Steps of the warm-up in a run of `max_steps`; a share is rounded up, as Transformers does."""
    return _steps(training.warmup_steps, max_steps)


def scheduler_arguments(training: TrainingConfig, max_steps: int) -> dict[str, Any]:
    """`lr_scheduler_kwargs` with the shares of `warmup_stable_decay` as steps; shares never go past the run's end."""
    arguments: dict[str, Any] = dict(training.lr_scheduler_kwargs)
    if training.lr_scheduler_type != "warmup_stable_decay":
        return arguments
    left = max(0, max_steps - warmup_count(training, max_steps))
    for name in reversed(PHASES):  # the decay first: it is what a short run must not lose
        if name in arguments:
            value = float(arguments[name])
            arguments[name] = min(left, _steps(value, max_steps)) if value < 1 else int(value)
            left = max(0, left - arguments[name])
    if _shares_are_all(training):
        arguments["num_stable_steps"] += left  # what rounding left over
    return arguments


def _steps(value: float, max_steps: int) -> int:
    return math.ceil(value * max_steps) if value < 1 else int(value)  # as Transformers counts a share


def _shares_are_all(training: TrainingConfig) -> bool:
    """Warm-up, stable phase and decay are shares that make up the run."""
    given = training.lr_scheduler_kwargs
    values = [training.warmup_steps, *(float(given[name]) for name in PHASES if name in given)]
    return len(values) == 3 and max(values) < 1 and abs(sum(values) - 1) < 1e-6


def _of_arguments(training: TrainingConfig) -> Iterator[ScheduleProblem]:
    name, given = training.lr_scheduler_type, training.lr_scheduler_kwargs
    rules = KNOWN[name]
    for argument, value in given.items():
        setting = f"{ARGUMENTS}.{argument}"
        if argument not in rules:
            known = f"It takes {', '.join(rules)}." if rules else "Delete it: this schedule takes no arguments."
            yield ScheduleProblem(setting=setting, message=f"no argument of {name}", got=value, remedy=known)
        elif not rules[argument][0](value):
            yield ScheduleProblem(setting=setting, message=f"must be {rules[argument][1]}", got=repr(value))
    if "min_lr" in rules and len({"min_lr", "min_lr_rate"} & given.keys()) != 1:
        remedy = "Write `min_lr_rate: 0.1` for a tenth of the peak, or the rate itself as `min_lr`."
        yield ScheduleProblem(setting=ARGUMENTS, message=f"{name} needs one of min_lr and min_lr_rate", remedy=remedy)
    if name == "warmup_stable_decay" and "num_decay_steps" not in given:
        remedy = "Write `num_decay_steps: 0.2` for the last fifth of the run, or a number of steps."
        yield ScheduleProblem(setting=ARGUMENTS, message=f"{name} needs num_decay_steps", remedy=remedy)


def _of_rates(training: TrainingConfig) -> Iterator[ScheduleProblem]:
    """Rates that the schedule ends at are rates, not shares, and lie below the peak."""
    peak = training.learning_rate
    for argument in ("lr_end", "min_lr"):
        end = training.lr_scheduler_kwargs.get(argument, 1e-7 if argument == "lr_end" else 0.0)
        used = argument in KNOWN[training.lr_scheduler_type]
        if used and _number(end) and peak != "auto" and float(end) >= peak:
            yield ScheduleProblem(
                setting=f"{ARGUMENTS}.{argument}",
                message=f"must be below the peak, training.learning_rate {peak:g}",
                got=end,
                remedy=f"It is a learning rate, such as {peak / 10:g}.",
            )


def _of_warmup(training: TrainingConfig) -> Iterator[ScheduleProblem]:
    warmup = training.warmup_steps
    if warmup >= 1 and warmup != int(warmup):
        yield ScheduleProblem(setting=WARMUP, message="must be a whole number of steps, or a share below 1", got=warmup)
    if training.lr_scheduler_type == "constant" and warmup not in (0, DEFAULT_WARMUP):
        remedy = "Write `lr_scheduler_type: constant_with_warmup`, or `warmup_steps: 0`."
        yield ScheduleProblem(setting=WARMUP, message="the constant schedule has no warm-up", got=warmup, remedy=remedy)


def _of_length(training: TrainingConfig, max_steps: int) -> Iterator[ScheduleProblem]:
    """Phases that do not fit into the run, and rates that would be 0 where the run should learn."""
    name, warmup = training.lr_scheduler_type, warmup_count(training, max_steps)
    if name == "constant":
        return
    if warmup > max_steps:
        yield ScheduleProblem(
            setting=WARMUP,
            message=f"the warm-up is longer than the run, which has {count(max_steps, 'step')}",
            got=warmup,
            remedy="Write a share such as 0.03, or train longer.",
        )
    elif name == "warmup_stable_decay":
        yield from _of_phases(training, max_steps, warmup)
    elif name == "cosine_warmup_with_min_lr" and max_steps == 1 and not warmup and _ends_at_zero(training):
        yield ScheduleProblem(
            setting=TYPE,
            message=f"{name} never leaves 0 in a run of one step without warm-up",
            remedy="Set min_lr_rate above 0, or train longer.",
        )


def _of_phases(training: TrainingConfig, max_steps: int, warmup: int) -> Iterator[ScheduleProblem]:
    given = training.lr_scheduler_kwargs
    arguments = scheduler_arguments(training, max_steps)
    decay, stable = int(arguments["num_decay_steps"]), arguments.get("num_stable_steps")
    needed = warmup + decay + int(stable or 0)
    lengths = f"warm-up {warmup}" + ("" if stable is None else f", stable {int(stable)}") + f", decay {decay}"
    if needed > max_steps:
        yield ScheduleProblem(
            setting=f"{ARGUMENTS}.num_decay_steps",
            message=f"the phases ({lengths}) are longer than the run, which has {count(max_steps, 'step')}",
            got=given["num_decay_steps"],
            remedy="Write shares below 1, such as `num_decay_steps: 0.2`.",
        )
    elif stable is not None and needed < max_steps and not arguments.get("min_lr_ratio"):
        yield ScheduleProblem(
            setting=f"{ARGUMENTS}.num_stable_steps",
            message=f"the phases ({lengths}) end before the run, which has {count(max_steps, 'step')}: "
            f"the last {max_steps - needed} would have rate 0",
            got=given["num_stable_steps"],
            remedy="Delete num_stable_steps, so that the stable phase fills the run, or set min_lr_ratio.",
        )


def _ends_at_zero(training: TrainingConfig) -> bool:
    given = training.lr_scheduler_kwargs
    return not (given.get("min_lr") or given.get("min_lr_rate"))
