"""The account of a run's time: adds up, and loses no lost step."""

import math
import random
from typing import Any

import pytest

from cluster.run import goodput
from cluster.run.goodput import PHASES, Goodput
from tests.support.documents import typed, typed_progress

TRAINER = {"launch": 3.0, "import": 6.0, "rendezvous": 0.5, "load": 2.0, "first_step": 1.5, "training": 80.0}
TRAINER |= {"save": 0.5, "evaluate": 1.0}


def account(record: dict, progress: dict) -> dict:
    (found,) = typed([record])
    return goodput.with_account(found, typed_progress(progress)).to_json()


def summarise(records: list[dict]) -> Goodput:
    return goodput.summarise(typed(records))


def mean_time_between_failures_seconds(records: list[dict], **prior: float) -> float:
    return goodput.mean_time_between_failures_seconds(typed(records), **prior)


def life(number: int, outcome: str, first: int | None, last: int | None, saved: int | None, **more: Any) -> dict:
    """A closed record of an attempt that took 120 s, 101 of them in training, and waited 10 s for its turn."""
    record = {
        **{"attempt": number, "outcome": outcome, "started": 1000.0, "ended": 1120.0},
        **{"first_step": first, "last_step": last, "last_checkpoint_step": saved},
        "seconds": {"prepare": 4.0, "train": 101.0, "export": 5.0, "evaluate": 6.0},
        "phase_seconds": {"queue": 10.0, "gate": 0.25},
        **more,
    }
    return {**record, **account(record, {"phase_seconds": TRAINER})}


def test_phases_add_up_to_the_attempts_seconds() -> None:
    phases = life(0, "finished", 0, 81, 81)["phase_seconds"]
    assert list(phases) == list(PHASES)
    assert phases["queue"] == 10.0
    assert phases["training"] == 80.0
    assert phases["evaluate_model"] == 6.0
    assert phases["other"] == pytest.approx(130 - 10 - 0.25 - 4 - 94.5 - 5 - 6)
    assert math.isclose(sum(phases.values()), 130.0)


@pytest.mark.parametrize("seed", range(30))
def test_phases_add_up_whatever_the_trainer_says(seed: int) -> None:
    dice = random.Random(seed)
    ran = {name: dice.uniform(0, 30) for name in ("prepare", "train", "export") if dice.random() < 0.7}
    trainer = {name: dice.choice([None, dice.uniform(-1, 50)]) for name in TRAINER if dice.random() < 0.8}
    record = {
        "outcome": dice.choice(["crashed", "hang"]),
        "started": 5.0,
        "ended": 5.0 + sum(ran.values()) + dice.uniform(0, 9),
    }
    record |= {"seconds": ran, "phase_seconds": {"queue": dice.uniform(0, 9)}}
    beat = {"heartbeat": dice.uniform(0, 60)} if dice.random() < 0.7 else {}
    phases = account(record, {"phase_seconds": trainer, **beat})["phase_seconds"]
    whole = record["phase_seconds"]["queue"] + record["ended"] - record["started"]
    assert sum(phases.values()) == pytest.approx(whole, abs=0.02)
    assert min(phases.values()) >= 0


@pytest.mark.parametrize(("outcome", "hang"), [("hang", 30.0), ("crashed", 0.0)])
def test_time_without_a_sign_of_life_is_the_hangs(outcome: str, hang: float) -> None:
    record = {"attempt": 0, "outcome": outcome, "started": 0.0, "ended": 120.0, "seconds": {"train": 119.0}}
    told = account(record, {"phase_seconds": {"load": 8.0, "training": 80.0}, "heartbeat": 90.0})["phase_seconds"]
    assert (told["hang"], told["other"]) == (hang, 120 - 88 - hang)


def test_an_attempt_that_left_no_word_has_an_account_too() -> None:
    record = {"attempt": 0, "outcome": "node_failure", "started": 5.0, "ended": 65.0}
    told = account(record, {})
    assert told["phase_seconds"]["other"] == 60.0
    assert (told["lost_steps"], told["lost_seconds"]) == (0, 0.0)


@pytest.mark.parametrize(
    ("outcome", "first", "last", "saved", "lost"),
    [
        ("crashed", 0, 81, 60, 21),
        ("preempted", 0, 81, 81, 0),
        ("crashed", 0, 81, None, 81),
        ("finished", 0, 81, 60, 0),
        ("crashed", 60, 61, 60, 1),
        ("crashed", 120, 120, 100, 0),  # never trained: the steps were lost by the one before
        ("crashed", None, None, None, 0),
    ],
)
def test_steps_that_an_attempt_lost(outcome: str, first, last, saved, lost: int) -> None:
    assert life(0, outcome, first, last, saved)["lost_steps"] == lost


def test_lost_seconds_come_from_the_attempts_own_speed() -> None:
    assert life(0, "crashed", 0, 81, 60)["lost_seconds"] == 21.0  # 80 s for 80 steps after the first
    assert life(0, "crashed", 60, 61, 60)["lost_seconds"] == 1.5  # only a first step


def test_a_run_with_a_crash_and_a_damaged_checkpoint() -> None:
    crashed = life(0, "crashed", 0, 81, 60)
    stepped_back = life(1, "preempted", 40, 121, 121)  # 60 was damaged: 40 to 81 were made again
    finished = life(2, "finished", 121, 202, 202)
    whole = summarise([crashed, stepped_back, finished])
    assert whole.lost_steps == 41
    assert whole.lost_seconds == 41.0
    assert whole.wall_seconds == 390.0
    assert whole.useful_seconds == 240.0 - 41.0
    assert whole.goodput == round(199 / 390, 4)
    assert whole.by_phase["queue"] == 30.0
    assert math.isclose(sum(whole.by_phase.values()), whole.wall_seconds)


def test_the_last_attempt_and_those_that_never_trained_count_once() -> None:
    crashed, in_vain = life(0, "crashed", 0, 120, 100), life(1, "crashed", 120, 120, 100)
    assert summarise([crashed]).lost_steps == 20
    assert summarise([crashed, life(1, "crashed", None, None, None)]).lost_steps == 20
    assert summarise([crashed, in_vain]).lost_steps == 20, "the steps are still lost while the next one fails to load"
    again = life(2, "finished", 100, 400, 400)
    assert summarise([crashed, in_vain, again]).lost_seconds == summarise([crashed, again]).lost_seconds > 0
    assert summarise([crashed, in_vain, again]).lost_steps == 20
    assert summarise([]).goodput == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_every_step_is_either_kept_or_lost(seed: int) -> None:
    dice = random.Random(seed)
    records, step = [], 0
    for number in range(dice.randrange(1, 12)):
        last = step + dice.randrange(0, 100)
        saved = dice.randrange(step, last + 1)
        records.append(life(number, "crashed", step, last, saved))
        step = dice.choice([saved, dice.randrange(0, saved + 1)])
    made = sum(record["last_step"] - record["first_step"] for record in records)
    kept = records[-1]["last_checkpoint_step"]
    assert made - summarise(records).lost_steps == kept


def test_mean_time_between_failures() -> None:
    hour = 3600.0
    assert mean_time_between_failures_seconds([]) == 6 * hour
    lives = [{"outcome": outcome, "started": 0.0, "ended": hour} for outcome in ("crashed", "preempted", "stopped")]
    assert mean_time_between_failures_seconds(lives) == (3 + 6) * hour / 3
    assert mean_time_between_failures_seconds([*lives, {"outcome": None, "started": 5.0}]) == (3 + 6) * hour / 3
    assert mean_time_between_failures_seconds(lives, prior_seconds=0) == hour
