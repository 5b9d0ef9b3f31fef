"""The table of outcomes: progress.json and the stop file decide, exit codes are hints."""

from typing import Any

import pytest

from cluster import Outcome
from cluster.agent.outcome import EXIT_CODES, PhaseEnd, abandoned, describe_exit, judge

ATTEMPT = 4
FORCED = "training did not leave in time and was killed unsaved"


def progress(state: str, attempt: int = ATTEMPT, **more: Any) -> dict[str, Any]:
    return {"state": state, "attempt": attempt, "failure": None, **more}


def wish(reason: str, by: str) -> dict[str, Any]:
    return {"reason": reason, "by": by, "time": 100.0}


def failed(kind: str, message: str = "") -> dict[str, Any]:
    return progress("failed", failure={"kind": kind, "message": message, "remedy": ""})


PREPARED = PhaseEnd("prepare", 0)
LEFT = PhaseEnd("train", 1, words="rank 0 exit code 75")
CRASHED = PhaseEnd("train", 1, words="rank 3 killed by SIGKILL")
KILLED_BY_US = PhaseEnd("train", -9, ended_by_agent=True)
TRAIN = ["prepare", "train"]
ALL = [*TRAIN, "export"]

TABLE = [
    # what it is, the phases planned, how they ended, progress.json, the stop file: outcome, cause
    ("all went well", TRAIN, [PREPARED, PhaseEnd("train", 0)], progress("finished"), None, "finished", ""),
    (
        "finished by an earlier attempt",
        *(TRAIN, [PREPARED, PhaseEnd("train", 0)], progress("finished", attempt=3), None, "finished", ""),
    ),
    (
        "finished, then torchrun stumbled",
        *(TRAIN, [PREPARED, CRASHED], progress("finished"), None, "finished", ""),
    ),
    (
        "stop wished for after the end",
        *(
            TRAIN,
            [PREPARED, PhaseEnd("train", 0)],
            progress("finished"),
            wish("stopped", "x"),
            "finished",
            "",
        ),
    ),
    (
        "saved and left",
        *(ALL, [PREPARED, LEFT], progress("stopped"), wish("preempted", "SIGTERM"), "preempted", "SIGTERM"),
    ),
    (
        "saved at the walltime",
        *(ALL, [PREPARED, LEFT], progress("stopped"), wish("walltime", "SIGUSR1"), "walltime", "SIGUSR1"),
    ),
    (
        "empty stop file",
        ALL,
        [PREPARED, LEFT],
        progress("stopped"),
        {"reason": "stopped"},
        "stopped",
        "stop file",
    ),
    (
        "a reason nobody knows is the user's",
        *(ALL, [PREPARED, LEFT], progress("stopped"), wish("lunch", "me"), "stopped", "me"),
    ),
    (
        "ranks signalled behind our back",
        *(ALL, [PREPARED, LEFT], progress("stopped"), None, "preempted", "the ranks were signalled directly"),
    ),
    (
        "stopped is not ours: an earlier attempt's",
        *(ALL, [PREPARED, CRASHED], progress("stopped", attempt=3), None),
        *("crashed", "train: rank 3 killed by SIGKILL"),
    ),
    (
        "would not leave",
        *(ALL, [PREPARED, KILLED_BY_US], progress("training"), wish("preempted", "SIGTERM")),
        *("preempted", f"SIGTERM; {FORCED}"),
    ),
    (
        "died by itself while a stop was wished for",
        *(ALL, [PREPARED, CRASHED], progress("saving"), wish("preempted", "SIGTERM")),
        *("crashed", "train: rank 3 killed by SIGKILL"),
    ),
    (
        "told to stop while preparing",
        *(ALL, [PhaseEnd("prepare", -15, ended_by_agent=True)], None, wish("preempted", "SIGTERM")),
        *("preempted", "SIGTERM during prepare"),
    ),
    ("told to stop between phases", ALL, [PREPARED], None, wish("stopped", "SIGINT"), "stopped", "SIGINT"),
    ("told to stop before anything", ALL, [], None, wish("stopped", "SIGINT"), "stopped", "SIGINT"),
    ("fatal", ALL, [PREPARED, CRASHED], failed("fatal", "out of memory"), None, "fatal", "out of memory"),
    (
        "a crash in the trainer's words",
        *(ALL, [PREPARED, CRASHED], failed("crash", "connection reset"), None),
        *("crashed", "train: rank 3 killed by SIGKILL; connection reset"),
    ),
    (
        "torchrun itself was killed",
        *(ALL, [PREPARED, PhaseEnd("train", -9)], progress("training"), None),
        *("crashed", "train: killed by SIGKILL"),
    ),
    (
        "left with 0 and no word",
        *(ALL, [PREPARED, PhaseEnd("train", 0)], progress("training"), None),
        *("crashed", "train: left without finishing"),
    ),
    (
        "no progress.json at all",
        ALL,
        [PREPARED, CRASHED],
        None,
        None,
        "crashed",
        "train: rank 3 killed by SIGKILL",
    ),
    (
        "wrong data",
        *(ALL, [PhaseEnd("prepare", 2, words="rows.jsonl:3: not JSON")], None, None),
        *("fatal", "prepare: exit code 2; rows.jsonl:3: not JSON"),
    ),
    ("prepare crashed", ALL, [PhaseEnd("prepare", 1)], None, None, "crashed", "prepare: exit code 1"),
    (
        "export crashed after training finished",
        *(ALL, [PREPARED, PhaseEnd("train", 0), PhaseEnd("export", -9, words="writing")]),
        *(progress("finished"), None, "crashed", "export: killed by SIGKILL; writing"),
    ),
]


@pytest.mark.parametrize(
    ("planned", "ends", "seen", "stop", "outcome", "cause"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_verdict(planned, ends, seen, stop, outcome, cause) -> None:
    verdict = judge(ATTEMPT, ends, planned, seen, stop)
    assert (verdict.outcome, verdict.cause) == (outcome, cause)


HERE = {"boot": "b1"}


@pytest.mark.parametrize(
    ("stop", "previous", "outcome"),
    [
        (None, HERE, "crashed"),
        (None, {"boot": "b0"}, "node_failure"),
        (None, {}, "node_failure"),
        (None, None, "node_failure"),
        (wish("preempted", "SIGTERM"), {"boot": "b0"}, "preempted"),
        (wish("stopped", "tuneyard cancel"), HERE, "stopped"),
        ({"reason": "stopped", "time": 49.0}, HERE, "crashed"),  # left over from before the attempt
        ({"reason": "stopped", "time": "yesterday"}, HERE, "crashed"),
    ],
)
def test_an_agent_that_left_no_verdict(stop, previous, outcome) -> None:
    assert abandoned({"attempt": 0, "started": 50.0}, stop, previous, boot="b1").outcome == outcome


def test_every_outcome_that_an_agent_reaches_has_an_exit_code() -> None:
    decided_elsewhere = {Outcome.NODE_FAILURE, Outcome.HANG}
    assert EXIT_CODES.keys() == set(Outcome) - decided_elsewhere


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
