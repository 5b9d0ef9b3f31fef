"""The restart policy against a fake clock: tables of histories, and properties of random ones."""

import random
from typing import Any

import pytest

from cluster import Outcome
from cluster.run.restart_policy import decide, exclusions, made_progress
from rundir.attempts import Decision
from rundir.errors import RunDirError
from rundir.plan import Plan, RestartLimits
from tests.support.documents import typed

HOUR = 3600.0
LIMITS = RestartLimits()
RESTARTABLE = ["preempted", "walltime", "node_failure", "crashed", "hang"]


def history(*lives: tuple[str, int | None], every_seconds: float = HOUR, **more: Any) -> list[dict[str, Any]]:
    """Records of attempts given as (outcome, last checkpoint), one ending every `every_seconds`."""
    return [
        {
            "attempt": number,
            "outcome": outcome,
            "cause": f"cause {number}",
            "ended": (number + 1) * every_seconds,
            "last_checkpoint_step": step,
            **more,
        }
        for number, (outcome, step) in enumerate(lives)
    ]


def judge(records: list[dict[str, Any]], limits: RestartLimits = LIMITS) -> Decision:
    """The decision at the moment at which the newest attempt ended."""
    return decide(typed(records), limits, now=records[-1]["ended"])


TABLE = [
    # what it is, the lives so far, the action, seconds to wait
    ("finished", [("finished", 400)], "stop", 0),
    ("stopped by the user", [("preempted", 100), ("stopped", 200)], "stop", 0),
    ("fatal", [("fatal", None)], "stop", 0),
    ("preempted with a new checkpoint", [("preempted", 120)], "restart", 0),
    ("walltime with a new checkpoint", [("walltime", 120), ("walltime", 240)], "restart", 0),
    ("a lost node with a new checkpoint", [("node_failure", 120)], "restart", 0),
    ("preempted before the first checkpoint", [("preempted", None)], "restart", 10),
    ("twice", [("preempted", None), ("preempted", 0)], "restart", 20),
    ("three times", [("preempted", None), ("preempted", 0), ("walltime", None)], "stop", 0),
    ("two in vain, then progress", [("preempted", None), ("preempted", None), ("preempted", 5)], "restart", 0),
    ("no progress beyond the best", [("preempted", 120), ("preempted", 120), ("walltime", 100)], "restart", 20),
    ("never beyond the best", [("preempted", 120), *[("node_failure", 120)] * 3], "stop", 0),
    ("one crash with progress", [("crashed", 120)], "restart", 10),
    ("second crash", [("crashed", 120), ("crashed", 240)], "restart", 20),
    ("a good life between crashes resets the wait", [("crashed", 1), ("preempted", 2), ("hang", 3)], "restart", 10),
    ("three crashes are the budget", [("crashed", 1), ("crashed", 2), ("hang", 3)], "restart", 40),
    ("the fourth is over it", [("crashed", 1), ("crashed", 2), ("hang", 3), ("crashed", 4)], "stop", 0),
    ("crash loop at the same step", [("preempted", 120), *[("crashed", 120)] * 3], "stop", 0),
    ("preempted after the budget was spent", [*[("crashed", n) for n in (1, 2, 3)], ("preempted", 4)], "restart", 0),
]


@pytest.mark.parametrize(("lives", "action", "wait"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_decision(lives, action: str, wait: float) -> None:
    decision = judge(history(*lives))
    assert (decision.action, decision.wait_seconds) == (action, wait)
    assert decision.reason


def test_the_report_names_attempts_step_and_causes() -> None:
    records = history(("preempted", 80), ("preempted", 120), ("preempted", 120), ("crashed", 120), ("crashed", None))
    assert judge(records).reason == (
        "attempts 2, 3, 4 all ended before a checkpoint beyond step 120; last causes: cause 4; cause 3; cause 2"
    )
    never = judge(history(*[("node_failure", None)] * 3))
    assert "ended before the first checkpoint" in never.reason
    spent = judge(history(("hang", 1), ("hang", 2), ("hang", 3), ("hang", 4)))
    assert spent.reason.startswith("4 crashes or hangs within 24 hours (max_crashes is 3): cause 3;")


def test_crashes_older_than_a_day_are_forgiven() -> None:
    lives = [("crashed", step) for step in range(1, 10)]
    assert judge(history(*lives, every_seconds=8 * HOUR)).action == "restart"
    assert judge(history(*lives, every_seconds=7.9 * HOUR)).action == "stop"


def test_the_wait_never_exceeds_ten_minutes() -> None:
    generous = RestartLimits(max_crashes=10**6)
    lives = [("crashed", step) for step in range(1, 2000)]
    waits = [judge(history(*lives[:count]), generous).wait_seconds for count in (1, 6, 7, 8, 1999)]
    assert waits == [10, 320, 600, 600, 600]


def test_limits_come_from_the_plan() -> None:
    plain = Plan.from_json({}).launch.restart
    found = (plain.max_crashes, plain.max_attempts_without_progress, plain.auto, plain.backoff_seconds)
    assert found == (3, 3, True, 10.0)
    given = Plan.from_json({"launch": {"restart": {"max_crashes": 0, "auto": False, "unknown": 1}}}).launch.restart
    assert (given.max_crashes, given.max_attempts_without_progress, given.auto) == (0, 3, False)
    with pytest.raises(RunDirError, match=r"restart\.max_crashes is 'many'"):
        RestartLimits.from_json({"max_crashes": "many"}).require_numbers()


def test_restarting_can_be_turned_off() -> None:
    decision = judge(history(("preempted", 5)), RestartLimits(auto=False))
    assert decision.action == "stop"
    assert "turned off" in decision.reason


def test_who_submits_again_grants_a_new_budget_but_progress_is_still_measured_against_all() -> None:
    first = history(*[("crashed", 50)] * 4, submitted=1.0)
    again = history(*[("crashed", 50)] * 6, submitted=2.0)[4:]
    assert judge(first).action == "stop"
    assert judge([*first, again[0]]).action == "restart"
    assert judge([*first, *again]).action == "restart"
    third = {**again[0], "attempt": 6, "ended": again[1]["ended"] + HOUR}
    decision = judge([*first, *again, third])
    assert decision.action == "stop"
    assert "attempts 4, 5, 6" in decision.reason


def with_evidence(record: dict[str, Any], blames: str, node: str = "node-7") -> dict[str, Any]:
    found = {"kind": "k", "node": node, "line": f"line of {record['attempt']}", "blames": blames}
    return {**record, "evidence": [found]}


def test_hard_evidence_excludes_a_node_for_a_day() -> None:
    records = [with_evidence(history(("node_failure", 5))[0], "node")]
    (excluded,) = judge(records).exclude
    assert (excluded.node, excluded.evidence, excluded.until) == ("node-7", "line of 0", 25 * HOUR)
    assert exclusions(typed(records), now=25 * HOUR - 1)
    assert not exclusions(typed(records), now=25 * HOUR)
    assert judge(records).to_json()["exclude"] == [{"node": "node-7", "evidence": "line of 0", "until": 25 * HOUR}]


def test_suspicion_excludes_when_two_attempts_within_a_day_share_it() -> None:
    one, two, three = history(("hang", 1), ("hang", 2), ("hang", 3))
    assert not judge([with_evidence(one, "suspect")]).exclude
    assert not judge([with_evidence(one, "suspect"), with_evidence(two, "suspect", "node-8")]).exclude
    both = [with_evidence(one, "suspect"), two, with_evidence(three, "suspect")]
    (excluded,) = judge(both).exclude
    assert (excluded.node, excluded.until) == ("node-7", 27 * HOUR)
    assert excluded.evidence == "suspected in 2 attempts, last: line of 2"
    apart = [with_evidence(one, "suspect"), with_evidence({**two, "ended": 25.1 * HOUR}, "suspect")]
    assert not judge(apart).exclude


def test_two_lines_of_one_attempt_are_one_suspicion() -> None:
    (record,) = history(("hang", 1))
    item = {"kind": "k", "node": "node-7", "line": "l", "blames": "suspect"}
    assert not judge([{**record, "evidence": [item, item]}]).exclude


@pytest.mark.parametrize("blames", ["job", "storage"])
def test_a_node_is_not_excluded_for_the_job_or_the_storage(blames: str) -> None:
    assert not judge([with_evidence(history(("crashed", 5))[0], blames)]).exclude


@pytest.mark.parametrize("seed", range(50))
def test_no_history_restarts_forever_without_progress(seed: int) -> None:
    dice = random.Random(seed)
    limits = RestartLimits(max_crashes=dice.randrange(6), max_attempts_without_progress=dice.randrange(1, 6))
    records = history((dice.choice(RESTARTABLE), 100))
    while judge(records, limits).action == "restart":
        number, step = len(records), dice.choice([None, 0, 50, 100])
        after = records[-1]["ended"] + dice.uniform(1, 100 * HOUR)
        life = {"attempt": number, "outcome": dice.choice(RESTARTABLE), "cause": "x", "ended": after}
        records.append({**life, "last_checkpoint_step": step})
    assert len(records) <= 1 + limits.max_attempts_without_progress


@pytest.mark.parametrize("seed", range(50))
def test_the_end_is_the_end_after_any_history(seed: int) -> None:
    dice = random.Random(seed)
    lives = [(dice.choice(RESTARTABLE), dice.randrange(1000)) for _ in range(dice.randrange(20))]
    for end in (Outcome.FINISHED, Outcome.STOPPED, Outcome.FATAL):
        assert judge(history(*lives, (end.value, dice.randrange(1000)))).action == "stop"


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_advances_survives_any_number_of_preemptions(seed: int) -> None:
    dice = random.Random(seed)
    lives = [(dice.choice(["preempted", "walltime", "node_failure"]), step) for step in range(1, 60)]
    decision = judge(history(*lives))
    assert (decision.action, decision.wait_seconds) == ("restart", 0)


def test_progress_is_measured_against_the_best_before() -> None:
    records = history(("preempted", 0), ("preempted", 10), ("preempted", 5), ("preempted", 10), ("preempted", 11))
    assert made_progress(typed(records)) == [False, True, False, False, True]


def test_a_clock_that_was_set_back_does_not_widen_the_budget() -> None:
    records = history(*[("crashed", step) for step in range(1, 5)])
    assert decide(typed(records), LIMITS, now=0.0).action == "stop"
