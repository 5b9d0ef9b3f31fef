"""When a run is over for its pods, which wishes of a user still stand, and the last words."""

import json
from pathlib import Path

import pytest

from cluster.agent.attempt.record import Attempt
from cluster.agent.multinode.leader import WorkerGroup
from cluster.agent.multinode.messages import TRAIN, DepartedWorker, Report, read_departed, write_departed, write_report
from cluster.agent.process.node import Node
from cluster.agent.verdict.outcome import PhaseEnd, Verdict
from cluster.kubernetes.pod.completion import (
    MOST_MESSAGE_BYTES,
    clear_honored,
    exit_code_of_run,
    honor_stop,
    ledger_line,
    stop_request,
    submission_of,
    termination_message,
)
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.run.lock import AgentLock
from rundir.files import write_json
from rundir.outcome import Outcome
from rundir.plan import LaunchSpec, RestartLimits
from rundir.stop import read_stop, write_stop
from tests.support.documents import put_attempt, read_attempts

SUBMITTED = 1795000000.5
LAUNCH = LaunchSpec(
    nodes=3, ranks_per_node=1, device="cpu", threads_per_rank=1, grace_seconds=10, phases=("train",), silence_seconds=60
)
POST = PodIdentity(0, 2, "a", "support-0", "node-0", submitted=SUBMITTED)


def ended(run_dir: Path, outcome: str, action: str = "stop", number: int = 0, **more: object) -> None:
    decision = {"action": action, "reason": "so it is", "wait_seconds": 0.0, "exclude": []}
    record = {"attempt": number, "outcome": outcome, "submitted": SUBMITTED, "decision": decision, **more}
    put_attempt(run_dir, record)


@pytest.mark.parametrize(
    ("outcome", "action", "code"),
    [
        ("finished", "stop", 0),
        ("fatal", "stop", 2),
        ("crashed", "stop", 3),
        ("preempted", "stop", 3),  # attempts without progress
        ("stopped", "stop", 4),
        ("crashed", "restart", None),
        ("preempted", "restart", None),
    ],
)
def test_the_record_says_whether_a_run_is_over(tmp_path: Path, outcome: str, action: str, code: int | None) -> None:
    assert exit_code_of_run(tmp_path, SUBMITTED) is None
    ended(tmp_path, outcome, action)
    assert exit_code_of_run(tmp_path, SUBMITTED) == code
    assert exit_code_of_run(tmp_path, None) == code
    assert exit_code_of_run(tmp_path, SUBMITTED + 1) is None, "a new submission"


def test_a_record_that_is_open_or_unjudged_ends_nothing(tmp_path: Path) -> None:
    put_attempt(tmp_path, {"attempt": 0, "outcome": None, "submitted": SUBMITTED})
    assert exit_code_of_run(tmp_path, SUBMITTED) is None
    put_attempt(tmp_path, {"attempt": 0, "outcome": "crashed", "submitted": SUBMITTED})
    assert exit_code_of_run(tmp_path, SUBMITTED) is None


def wish(run_dir: Path, time: float | None, reason: str = "stopped") -> None:
    write_json(run_dir / "stop", {"reason": reason, "by": "test", **({} if time is None else {"time": time})})


def test_a_wish_stands_until_an_attempt_has_ended_by_it(tmp_path: Path) -> None:
    assert stop_request(tmp_path, SUBMITTED) is None
    wish(tmp_path, SUBMITTED + 5)
    assert stop_request(tmp_path, SUBMITTED) is not None
    ended(tmp_path, "crashed", "restart", ended=SUBMITTED + 900)  # clocks of pods differ: later means nothing
    assert stop_request(tmp_path, SUBMITTED) is not None
    ended(tmp_path, "stopped", number=1, stop_time=SUBMITTED + 5)
    assert stop_request(tmp_path, SUBMITTED) is None
    assert stop_request(tmp_path, SUBMITTED + 1) is None, "nor does it in the next submission"
    wish(tmp_path, SUBMITTED + 6)
    assert stop_request(tmp_path, SUBMITTED + 1) is not None


def test_wishes_that_are_none_of_the_users(tmp_path: Path) -> None:
    wish(tmp_path, SUBMITTED + 5, reason="preempted")
    assert stop_request(tmp_path, SUBMITTED) is None
    wish(tmp_path, SUBMITTED - 5)
    assert stop_request(tmp_path, SUBMITTED) is None, "from before the submit"
    assert stop_request(tmp_path, None) is not None


def test_an_empty_file_is_the_users_unless_a_full_disk_explains_it(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert stop_request(tmp_path, SUBMITTED) is not None
    ended(tmp_path, "preempted", "restart")
    assert stop_request(tmp_path, SUBMITTED) is None
    ended(tmp_path, "crashed", "restart")
    assert stop_request(tmp_path, SUBMITTED) is not None
    (tmp_path / "stop").write_text("{")
    assert stop_request(tmp_path, SUBMITTED) is None, "what cannot be read now may be anything"


def test_the_next_attempt_meets_no_wish_of_an_older_one(tmp_path: Path) -> None:
    wish(tmp_path, SUBMITTED + 9e9, reason="preempted")  # by the clock of a pod that is far ahead
    clear_honored(tmp_path, SUBMITTED)
    assert read_stop(tmp_path) is None
    wish(tmp_path, SUBMITTED + 5)
    clear_honored(tmp_path, SUBMITTED)
    assert read_stop(tmp_path) is not None


def test_a_wish_is_granted_once_and_never_beside_a_living_agent(tmp_path: Path, monkeypatch) -> None:
    for name in ("TUNEYARD_NODES", "TUNEYARD_NODE_RANK"):
        monkeypatch.setenv(name, "")  # put back afterwards
    write_stop(tmp_path, "stopped", "tuneyard stop")
    with AgentLock(tmp_path):
        assert not honor_stop(tmp_path, POST)
    assert read_attempts(tmp_path) == []
    assert honor_stop(tmp_path, POST)
    assert honor_stop(tmp_path, POST)
    (record,) = read_attempts(tmp_path)
    assert (record["outcome"], record["cause"], record["nodes"]) == ("stopped", "tuneyard stop", ["node-0"])
    assert (exit_code_of_run(tmp_path, SUBMITTED), record["submitted"]) == (4, SUBMITTED)


def test_without_a_submission_a_run_has_a_single_one(tmp_path: Path) -> None:
    now = submission_of(tmp_path, None)
    assert now > SUBMITTED
    ended(tmp_path, "preempted", "restart")
    assert submission_of(tmp_path, None) == SUBMITTED
    assert submission_of(tmp_path, SUBMITTED + 1) == SUBMITTED + 1


@pytest.mark.parametrize("cause", ["", "train: rank 0", "x" * 10_000, "\N{SNOWMAN}" * 9000])
def test_last_words_fit(tmp_path: Path, cause: str) -> None:
    ended(tmp_path, "crashed", cause=cause, last_step=12, last_checkpoint_step=10)
    text = termination_message(tmp_path)
    assert len(text.encode()) <= MOST_MESSAGE_BYTES
    said = json.loads(text)
    assert (said["attempt"], said["last_checkpoint_step"], said["decision"]["reason"]) == (0, 10, "so it is")
    assert cause.startswith(said["cause"])
    assert said["cause"] or not cause


def test_the_ledger_is_one_line(tmp_path: Path) -> None:
    ended(tmp_path, "crashed", cause="a\nb")
    line = ledger_line(tmp_path)
    assert "\n" not in line
    assert json.loads(line.removeprefix("tuneyard: ")) == {"ledger": read_attempts(tmp_path), "progress": {}}


def test_a_head_believes_who_knows_that_a_follower_is_gone(tmp_path: Path) -> None:
    workers = WorkerGroup(tmp_path, Node(("n1", "n2", "n3"), generation="a.1"))
    workers.command_check(LAUNCH, 0)
    workers.command_train(0)
    absent = [DepartedWorker(1, "its pod has left", was_evicted=True), DepartedWorker(2, "its agent has ended")]
    write_departed(tmp_path, "a.0", absent)
    assert workers.trouble(0.0) == ""
    write_departed(tmp_path, "a.1", absent)
    assert workers.trouble(10.0) == "n2: its pod has left; n3: its agent has ended"
    end = workers.end_training(PhaseEnd("train", 1, 1.0), hurried=False)
    assert [(proof.node, proof.kind, proof.blames) for proof in end.proofs] == [
        ("n2", "left_node", "scheduler"),
        ("n3", "lost_node", "suspect"),
    ]


def test_a_follower_that_has_reported_is_not_missed(tmp_path: Path) -> None:
    workers = WorkerGroup(tmp_path, Node(("n1", "n2"), generation="a.1"))
    workers.command_check(LAUNCH, 0)
    workers.command_train(0)
    write_report(tmp_path, Report("a.1", 1, "n2", 0, 2, TRAIN, done=True, end=PhaseEnd("train", 0)))
    write_departed(tmp_path, "a.1", [DepartedWorker(1, "its pod has left", was_evicted=True)])
    assert (workers.trouble(10.0), workers.departed) == ("", {})


@pytest.mark.parametrize("text", ["", "[]", '{"generation": "a.1", "absences": [{"unheard": 1}]}'])
def test_absences_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "absent.json").write_text(text)
    assert read_departed(tmp_path, "a.1") == []


def test_an_agent_that_lost_its_run_to_a_later_one_leaves_the_ledger_alone(tmp_path: Path) -> None:
    old = Attempt(tmp_path, SUBMITTED)
    put_attempt(tmp_path, {"attempt": 0, "outcome": "preempted", "cause": "closed by the next head"})
    put_attempt(tmp_path, {"attempt": 1, "outcome": None})
    before = read_attempts(tmp_path)
    old.close(Verdict(Outcome.CRASHED, "too late"), RestartLimits())
    assert read_attempts(tmp_path) == before
