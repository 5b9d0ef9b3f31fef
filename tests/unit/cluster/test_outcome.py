"""The table of outcomes: progress.json and the stop file decide, exit codes are hints."""

from typing import Any

import pytest

from cluster import Outcome
from cluster.agent.verdict.log_evidence import Evidence
from cluster.agent.verdict.outcome import PhaseEnd, abandoned, describe_exit, judge
from cluster.process_identity import ProcessIdentity
from rundir.attempts import AttemptRecord
from rundir.stop import StopRequest
from tests.support.documents import typed_progress

ATTEMPT = 4
FORCED = "training did not leave in time and was killed unsaved"


def progress(state: str, attempt: int = ATTEMPT, **more: Any) -> dict[str, Any]:
    return {"state": state, "attempt": attempt, "failure": None, **more}


def wish(reason: str, by: str) -> dict[str, Any]:
    return {"reason": reason, "by": by, "time": 100.0}


RECORD = AttemptRecord(number=0, started=50.0)


def stop_of(found: dict[str, Any] | None) -> StopRequest | None:
    return None if found is None else StopRequest.from_json(found)


def identity_of(found: dict[str, Any] | None) -> ProcessIdentity | None:
    return None if found is None else ProcessIdentity.from_json(found)


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
        "saved, then the last evaluation died",
        *(TRAIN, [PREPARED, CRASHED], progress("evaluating", trained=True), None, "finished", ""),
    ),
    (
        "saved, then the last evaluation hung",
        TRAIN,
        [PREPARED, PhaseEnd("train", -9, ended_by_agent=True, hang="no heartbeat for 900 s")],
        progress("evaluating", trained=True),
        *(None, "finished", ""),
    ),
    (
        "told to leave in the last evaluation",
        *(ALL, [PREPARED, KILLED_BY_US], progress("evaluating", trained=True), wish("walltime", "SIGUSR1")),
        *("walltime", "SIGUSR1"),
    ),
    (
        "evaluation of an earlier attempt",
        *(TRAIN, [PREPARED, CRASHED], progress("evaluating", attempt=3, trained=True), None),
        *("crashed", "train: rank 3 killed by SIGKILL"),
    ),
    (
        "export broke",
        *(ALL, [PREPARED, PhaseEnd("train", 0), PhaseEnd("export", 1, words="no space")], progress("finished"), None),
        *("finished", "trained and saved, but export: exit code 1; no space"),
    ),
    (
        "told to stop while exporting",
        ALL,
        [PREPARED, PhaseEnd("train", 0), PhaseEnd("export", -15, ended_by_agent=True)],
        progress("finished"),
        wish("preempted", "SIGTERM"),
        *("preempted", "SIGTERM during export"),
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
        *(progress("finished"), None, "finished", "trained and saved, but export: killed by SIGKILL; writing"),
    ),
]


@pytest.mark.parametrize(
    ("planned", "ends", "seen", "stop", "outcome", "cause"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_verdict(planned, ends, seen, stop, outcome, cause) -> None:
    verdict = judge(ATTEMPT, ends, planned, typed_progress(seen), stop_of(stop))
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
    assert abandoned(RECORD, stop_of(stop), identity_of(previous), boot="b1").outcome == outcome


OOM = Evidence("out_of_memory", "n", "OutOfMemoryError: 2 GiB", "job", Outcome.FATAL, "too little memory", "less")
ECC = Evidence("gpu_hardware", "n", "uncorrectable ECC", "node", Outcome.NODE_FAILURE, "the GPU hardware failed")
FULL = Evidence("storage", "n", "[Errno 28]", "storage", Outcome.CRASHED, "the storage is full", "free space")
HUNG = PhaseEnd("train", -9, ended_by_agent=True, hang="no heartbeat for 61 s at step 12")

PROOFS = [
    # what the trainer said, how training ended, the evidence: outcome, cause, remedy
    (
        failed("crash", "x"),
        CRASHED,
        OOM,
        "fatal",
        "rank 3 killed by SIGKILL; too little memory: OutOfMemoryError: 2 GiB",
    ),
    (failed("fatal", "bad row"), CRASHED, ECC, "fatal", "bad row"),
    (progress("training"), CRASHED, ECC, "node_failure", "rank 3 killed by SIGKILL; the GPU hardware failed: uncorr"),
    (progress("saving"), LEFT, FULL, "crashed", "rank 0 exit code 75; the storage is full: [Errno 28]"),
    (progress("training"), HUNG, None, "hang", "no heartbeat for 61 s at step 12"),
    (progress("training"), HUNG, ECC, "node_failure", "no heartbeat for 61 s at step 12; the GPU hardware failed"),
    (progress("finished"), HUNG, None, "finished", ""),
]


@pytest.mark.parametrize(("seen", "end", "proof", "outcome", "cause"), PROOFS)
def test_what_evidence_makes_of_a_failure(seen, end, proof, outcome, cause) -> None:
    verdict = judge(ATTEMPT, [PREPARED, end], TRAIN, typed_progress(seen), None, [proof] if proof else [])
    assert verdict.outcome == outcome
    assert verdict.cause.removeprefix("train: ").startswith(cause)
    if proof and outcome != "finished":
        assert verdict.evidence == (proof,)
        assert verdict.remedy == proof.remedy


def test_the_trainers_own_remedy_is_kept_when_nothing_better_is_known() -> None:
    said = progress("failed", failure={"kind": "fatal", "message": "m", "remedy": "r"})
    assert judge(ATTEMPT, [PREPARED, LEFT], TRAIN, typed_progress(said), None).remedy == "r"


def test_exit_codes_tell_a_scheduler_what_to_do() -> None:
    codes = {
        (outcome.value, action): outcome.agent_exit_code(restarts=action == "restart")
        for outcome in Outcome
        for action in ("restart", "stop")
    }
    assert {code for (_, action), code in codes.items() if action == "restart"} == {0, 2, 75}
    assert codes[("finished", "stop")] == 0
    assert codes[("fatal", "stop")] == 2
    assert codes[("stopped", "stop")] == 75
    assert {codes[(name, "stop")] for name in ("preempted", "walltime", "node_failure", "hang", "crashed")} == {3}


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
