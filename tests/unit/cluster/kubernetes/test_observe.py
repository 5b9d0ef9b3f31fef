"""Where a run is, out of its workload, its pods and its record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes.status.objects import Condition, Container, Pod, Workload
from cluster.kubernetes.status.observe import (
    RunSnapshot,
    correct,
    ended,
    is_trained,
    living,
    preparing,
    termination_message,
)
from cluster.kubernetes.submitted import Submitted
from tests.support.documents import put_attempt, read_attempts

GIVEN = Submitted(
    release="run-1", namespace="n", context="", workload="job", submitted=100, path="/runs/run-1", mirrored=True
)
RUNNING = (Container("trainer", "running"),)


def over(kind: str = "", reason: str = "", message: str = "") -> RunSnapshot:
    return RunSnapshot(Workload("Job", conditions=(Condition(kind, "True", reason, message),) if kind else ()))


def record(outcome: str | None, submitted: int = 100, **more: Any) -> dict[str, Any]:
    return {"attempt": 0, "submitted": submitted, "outcome": outcome, "cause": "SIGTERM", **more}


ENDS = [
    (over("Complete"), "finished"),
    (over("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"), "walltime"),
    (over("Failed", "PodFailurePolicy", "Container trainer failed with exit code 2 matching FailJob"), "fatal"),
    (over("Failed", "PodFailurePolicy", "Container trainer failed with exit code 4 matching FailJob"), "stopped"),
    (over("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"), "crashed"),
    (RunSnapshot(None), "stopped"),
]


@pytest.mark.parametrize(("snapshot", "outcome"), ENDS, ids=[one[1] + str(number) for number, one in enumerate(ENDS)])
def test_an_end_without_a_record(tmp_path: Path, snapshot: RunSnapshot, outcome: str) -> None:
    put_attempt(tmp_path, record("finished", submitted=7))  # of an earlier submit
    assert ended(tmp_path, snapshot, GIVEN).outcome == outcome
    assert snapshot.is_over


@pytest.mark.parametrize(
    ("snapshot", "word", "outcome"),
    [
        (RunSnapshot(None), "preempted", "stopped"),
        (over("Failed", "DeadlineExceeded"), "preempted", "walltime"),
        (over("Failed", "BackoffLimitExceeded"), "preempted", "preempted"),
        (RunSnapshot(None), "finished", "finished"),
    ],
)
def test_the_record_says_what_only_the_cluster_knows(
    tmp_path: Path, snapshot: RunSnapshot, word: str, outcome: str
) -> None:
    put_attempt(tmp_path, record(word))
    correct(tmp_path, snapshot, GIVEN)
    assert read_attempts(tmp_path)[0]["outcome"] == ended(tmp_path, snapshot, GIVEN).outcome == outcome


def test_a_removed_release_whose_pods_still_save_is_not_over() -> None:
    assert not RunSnapshot(None, (Pod("p", containers=RUNNING, is_leaving=True),)).is_over


def test_queued_or_running(tmp_path: Path) -> None:
    both = RunSnapshot(Workload("Job"), (Pod("a", containers=RUNNING), Pod("b", index=1, containers=RUNNING)))
    one = RunSnapshot(Workload("Job"), both.pods[:1])
    assert living(tmp_path, one, 2, GIVEN) is None
    assert living(tmp_path, both, 2, GIVEN).state == "running"  # type: ignore[union-attr]
    put_attempt(tmp_path, record(None))
    assert living(tmp_path, one, 2, GIVEN).state == "running"  # type: ignore[union-attr]
    put_attempt(tmp_path, record("node_failure", decision={"action": "restart", "reason": "going on"}))
    assert living(tmp_path, one, 2, GIVEN) is None
    assert "attempt 1 (going on)" in living(tmp_path, both, 2, GIVEN).reason  # type: ignore[union-attr]


def test_the_termination_message_is_the_leaders_and_only_if_they_are_a_record() -> None:
    def snapshot(message: str, index: int = 0) -> RunSnapshot:
        return RunSnapshot(
            None, (Pod("p", index=index, containers=(Container("trainer", "terminated", message=message),)),)
        )

    assert termination_message(snapshot(json.dumps(record("finished")))).outcome == "finished"  # type: ignore[union-attr]
    for other in (
        snapshot("no json"),
        snapshot("[1]"),
        snapshot("{}"),
        snapshot(json.dumps(record("finished")), index=1),
    ):
        assert termination_message(other) is None


def test_ranks_that_have_not_noticed_yet_do_not_hide_a_lost_node(tmp_path: Path) -> None:
    put_attempt(tmp_path, record(None))
    (tmp_path / "progress.json").write_text(json.dumps({"attempt": 0, "state": "training"}))
    head, there = (Pod(f"run-1-{index}", index=index, phase="Running", containers=RUNNING) for index in (0, 1))
    silent = (Condition("Ready", "False", "NodeStatusUnknown"),)
    lost = replace(there, node="n2", is_leaving=True, conditions=silent)
    words = [living(tmp_path, RunSnapshot(Workload("Job"), (head, pod)), 2, GIVEN) for pod in (there, lost)]
    assert [one and one.state for one in words] == ["running", "running"]
    first, second = (one.reason for one in words if one)
    assert first == "training"
    assert second.startswith("training; a node does not answer, and its pod stays Terminating")


TOKENISES = Pod("run-1-prepare-0", node="n1", containers=(Container("prepare", "running"),), is_preparing=True)


def waiting(kind: str = "", reason: str = "", message: str = "", pod: Pod = TOKENISES) -> RunSnapshot:
    """A run whose own Job is suspended; the Job that tokenises has this condition."""
    first = Workload("Job", conditions=(Condition(kind, "True", reason, message),) if kind else ())
    return RunSnapshot(Workload("Job", is_suspended=True), (), first, (pod,))


def test_a_run_that_waits_for_its_data_lives_in_the_pod_that_tokenises(tmp_path: Path) -> None:
    snapshot = waiting()
    assert snapshot.waits_for_data and not snapshot.is_over and snapshot.running == [TOKENISES]
    status = preparing(tmp_path, snapshot, GIVEN)
    assert status is not None and status.state == "running"
    assert status.reason == "run-1 waits for its data: pod run-1-prepare-0 tokenises them on n1"
    pending = replace(TOKENISES, containers=())
    assert preparing(tmp_path, waiting(pod=pending), GIVEN) is None
    done = waiting("Complete")
    assert not done.waits_for_data and not done.is_over, "its own Job is suspended by somebody else now"


@pytest.mark.parametrize(
    ("reason", "message", "outcome"),
    [
        ("PodFailurePolicy", "Container prepare failed with exit code 2 matching FailJob", "fatal"),
        ("PodFailurePolicy", "Container prepare failed with exit code 4 matching FailJob", "stopped"),
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit", "crashed"),
    ],
)
def test_data_that_cannot_be_tokenised_end_the_run(tmp_path: Path, reason: str, message: str, outcome: str) -> None:
    said = Container("prepare", "terminated", message="rows.jsonl:3: no messages", exit_code=2)
    snapshot = waiting("Failed", reason, message, replace(TOKENISES, containers=(said,)))
    assert snapshot.is_over
    status = ended(tmp_path, snapshot, GIVEN)
    assert (status.outcome, status.reason.endswith("rows.jsonl:3: no messages")) == (outcome, True)


def test_a_deadline_before_the_data_were_there_is_told_from_the_runs_own(tmp_path: Path) -> None:
    put_attempt(tmp_path, record("preempted"))
    correct(tmp_path, waiting("Failed", "DeadlineExceeded"), GIVEN)
    (corrected,) = read_attempts(tmp_path)
    assert corrected["outcome"] == "walltime" and "`prepare.walltime`" in corrected["cause"]


def test_a_trained_run_needs_pod_0_alone(tmp_path: Path) -> None:
    put_attempt(tmp_path, record(None, trained=True))
    assert is_trained(tmp_path, GIVEN)
    left = Pod("run-1-1", index=1, phase="Succeeded")
    snapshot = RunSnapshot(Workload("Job"), (Pod("run-1-0", containers=RUNNING), left)).of_head()
    status = living(tmp_path, snapshot, 1, GIVEN)
    assert status is not None and status.reason == "trained; pod 0 exports and evaluates alone"
    assert not is_trained(tmp_path, replace(GIVEN, submitted=200)), "a later submit begins anew"
