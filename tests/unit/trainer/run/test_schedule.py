"""Every schedule that Transformers names: the same curve as its own at the peak, and a first step that learns."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType

from trainer.config import FOLLOWING_A_METRIC, Schedule, TrainingConfig
from trainer.errors import UserError
from trainer.run.learning_rate import FIRST_DEFINITION, LearningRate
from trainer.schedule_rules import KNOWN, check_schedule

PEAK, STEPS = 1e-5, 40
NAMES = [kind.value for kind in SchedulerType]
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "cosine": [{}, {"num_cycles": 1.5}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "polynomial": [{}, {"lr_end": 1e-6, "power": 2.0}, {"lr_end": 0}],
    "inverse_sqrt": [{}, {"timescale": 100}],
    "cosine_with_min_lr": [{"min_lr": 1e-6}, {"min_lr_rate": 0.1, "num_cycles": 0.25}],
    "cosine_warmup_with_min_lr": [{"min_lr": 1e-6}, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.05}],
    "warmup_stable_decay": [
        {"num_decay_steps": 10},
        {"num_decay_steps": 10, "num_stable_steps": 22, "min_lr_ratio": 0.2, "warmup_type": "1-sqrt"},
        {"num_decay_steps": 12, "decay_type": "1-sqrt", "warmup_type": "cosine"},
    ],
}


def training(name: str, warmup: float, arguments: dict[str, Any] | None = None, **more: Any) -> TrainingConfig:
    facts = {"learning_rate": PEAK, "lr_scheduler_type": name, "lr_scheduler_kwargs": arguments or {}}
    return TrainingConfig(warmup_steps=warmup, **facts, **more)


def theirs(name: str, warmup: int, arguments: dict[str, Any], steps: int) -> list[float]:
    """What Transformers' scheduler sets, step by step, in an optimizer with the peak as its rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=dict(arguments))
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:Both num_training_steps")
@pytest.mark.parametrize("warmup", [0, 1, 8])
@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_equals_transformers_own_at_the_peak(name: str, warmup: int) -> None:
    if name in FOLLOWING_A_METRIC:
        with pytest.raises(ValidationError, match=rf"{name} is not offered: its rate follows"):
            training(name, warmup)
        return
    for arguments in ARGUMENTS.get(name, [{}]):
        rate = LearningRate(training(name, 0 if name == "constant" else warmup, arguments), STEPS)
        reference = theirs(name, warmup, arguments, STEPS)
        begins_at_zero = reference[0] == 0 or (arguments.get("min_lr_ratio") and warmup)
        ahead = 1 if begins_at_zero else 0  # the warm-up's first step, which would learn nothing, is left out
        expected = [reference[at + ahead if at < warmup else at] for at in range(STEPS)]
        assert [rate.at(at) for at in range(STEPS)] == pytest.approx(expected, rel=1e-12, abs=0), arguments


def test_the_table_knows_every_name_and_argument_of_transformers() -> None:
    assert set(NAMES) == set(KNOWN) | set(FOLLOWING_A_METRIC)
    assert set(get_args(Schedule)) == set(KNOWN)
    common = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for name, rules in KNOWN.items():
        taken = set(inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters) - common
        assert set(rules) == taken, name


REQUIRED = {
    "warmup_stable_decay": {"num_decay_steps": 0.2},
    "cosine_with_min_lr": {"min_lr": 0},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("warmup", [0, 0.03, 0.5, 1])
def test_the_first_and_the_last_step_of_any_run_learn(name: str, warmup: float) -> None:
    if name == "constant":
        warmup = 0
    for steps in (1, 2, 3, 7, 100):
        rate = LearningRate(training(name, warmup, REQUIRED.get(name)), steps)
        rates = [rate.at(step) for step in range(steps)]
        assert rates[0] > 0 and rates[-1] > 0, (steps, rates)
        assert max(rates) == pytest.approx(PEAK) or name == "cosine_warmup_with_min_lr"  # its own may never reach it


@pytest.mark.parametrize(
    ("warmup", "stable", "decay", "steps", "expected"),
    [
        (0.1, None, 0.2, 100, (10, 70, 20)),
        (0.1, 0.6, 0.3, 7, (1, 3, 3)),  # rounded up, and yet no longer than the run
        (0.1, 0.5, 0.4, 100, (10, 50, 40)),
        (5, 0.5, 20, 50, (5, 25, 20)),
        (0.03, None, 0.2, 1, (1, 0, 0)),
    ],
)
def test_shares_of_warmup_stable_decay(
    warmup: float, stable: float | None, decay: float, steps: int, expected: tuple[int, int, int]
) -> None:
    given = {"num_decay_steps": decay} | ({} if stable is None else {"num_stable_steps": stable})
    rate = LearningRate(training("warmup_stable_decay", warmup, given), steps)
    up, flat, down = expected
    curve = [rate.at(step) / PEAK for step in range(steps)]
    assert curve[:up] == pytest.approx([(at + 1) / up for at in range(up)])
    assert curve[up : up + flat] == [1.0] * flat
    assert [value < 1 for value in curve[up + flat :]] == [at > 0 for at in range(down)]
    assert curve[-1] > 0


REFUSED: list[tuple[str, float, dict[str, Any], int | None, str, str]] = [
    ("cosine", 50, {}, STEPS, "training.warmup_steps", "longer than the run, which has 40 steps"),
    ("cosine", 2.5, {}, None, "training.warmup_steps", "whole number"),
    ("constant", 100, {}, None, "training.warmup_steps", "has no warm-up"),
    ("cosine", 0, {"lr_end": 1e-6}, None, "training.lr_scheduler_kwargs.lr_end", "no argument of cosine"),
    ("constant", 0, {"power": 2}, None, "training.lr_scheduler_kwargs.power", "no argument of constant"),
    ("cosine_with_restarts", 0, {"num_cycles": 2.5}, None, "training.lr_scheduler_kwargs.num_cycles", "whole"),
    ("cosine", 0, {"num_cycles": "many"}, None, "training.lr_scheduler_kwargs.num_cycles", "above 0"),
    ("polynomial", 0, {"lr_end": 0.1}, None, "training.lr_scheduler_kwargs.lr_end", "below the peak"),
    ("cosine_with_min_lr", 0, {"min_lr": 1e-4}, None, "training.lr_scheduler_kwargs.min_lr", "below the peak"),
    ("cosine_with_min_lr", 0, {}, None, "training.lr_scheduler_kwargs", "needs one of min_lr and min_lr_rate"),
    ("cosine_with_min_lr", 0, {"min_lr_rate": 10}, None, "training.lr_scheduler_kwargs.min_lr_rate", "share"),
    ("warmup_stable_decay", 0, {}, None, "training.lr_scheduler_kwargs", "needs num_decay_steps"),
    (
        "warmup_stable_decay",
        5,
        {"num_decay_steps": 38},
        STEPS,
        "training.lr_scheduler_kwargs.num_decay_steps",
        "longer",
    ),
    (
        "warmup_stable_decay",
        0,
        {"num_decay_steps": 10, "num_stable_steps": 10},
        STEPS,
        "training.lr_scheduler_kwargs.num_stable_steps",
        "the last 20 would have rate 0",
    ),
    ("warmup_stable_decay", 0, {"num_decay_steps": 0.2, "decay_type": "log"}, None, ".decay_type", "one of linear"),
    ("cosine_warmup_with_min_lr", 0, {"min_lr": 0}, 1, "training.lr_scheduler_type", "never leaves 0"),
    ("cosine_warmup_with_min_lr", 5, {"min_lr": 0, "warmup_lr_rate": 0}, None, ".warmup_lr_rate", "above 0"),
    ("inverse_sqrt", 0, {"timescale": 0}, None, "training.lr_scheduler_kwargs.timescale", "above 0"),
]


@pytest.mark.parametrize(("name", "warmup", "arguments", "steps", "setting", "words"), REFUSED)
def test_what_cannot_be_followed_is_refused(
    name: str, warmup: float, arguments: dict[str, Any], steps: int | None, setting: str, words: str
) -> None:
    section = training(name, warmup, arguments)
    problems = check_schedule(section, steps)
    assert len(problems) == 1 and problems[0].setting.endswith(setting) and words in problems[0].message
    with pytest.raises(UserError, match=words):
        LearningRate(section, steps or STEPS)


def test_a_run_that_began_before_keeps_its_curve() -> None:
    section = training("polynomial", 4, {"lr_end": 0.1})
    rate = LearningRate(section, STEPS, FIRST_DEFINITION)
    assert rate.at(0) == 0 and rate.at(4) == PEAK
    assert rate.at(STEPS - 1) == pytest.approx(PEAK * (0.9 / 36 + 0.1))
