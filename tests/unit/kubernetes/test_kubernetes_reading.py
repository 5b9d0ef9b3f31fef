"""Where a run is, out of its workload, its pods and its record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes.facts import Condition, Container, Pod, Workload
from cluster.kubernetes.reading import Scene, correct, ended, last_words, living
from cluster.kubernetes.state import Submitted
from cluster.rundir import put_attempt, read_attempts

GIVEN = Submitted(
    release="run-1", namespace="n", context="", workload="job", submitted=100, path="/runs/run-1", mirrored=True
)
RUNNING = (Container("trainer", "running"),)


def over(kind: str = "", reason: str = "", message: str = "") -> Scene:
    return Scene(Workload("Job", conditions=(Condition(kind, "True", reason, message),) if kind else ()))


def record(outcome: str | None, submitted: int = 100, **more: Any) -> dict[str, Any]:
    return {"attempt": 0, "submitted": submitted, "outcome": outcome, "cause": "SIGTERM", **more}


ENDS = [
    (over("Complete"), "finished"),
    (over("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"), "walltime"),
    (over("Failed", "PodFailurePolicy", "Container trainer failed with exit code 2 matching FailJob"), "fatal"),
    (over("Failed", "PodFailurePolicy", "Container trainer failed with exit code 4 matching FailJob"), "stopped"),
    (over("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"), "crashed"),
    (Scene(None), "stopped"),
]


@pytest.mark.parametrize(("scene", "outcome"), ENDS, ids=[one[1] + str(number) for number, one in enumerate(ENDS)])
def test_an_end_without_a_record(tmp_path: Path, scene: Scene, outcome: str) -> None:
    put_attempt(tmp_path, record("finished", submitted=7))  # of an earlier submit
    assert ended(tmp_path, scene, GIVEN).outcome == outcome
    assert scene.is_over


@pytest.mark.parametrize(
    ("scene", "word", "outcome"),
    [
        (Scene(None), "preempted", "stopped"),
        (over("Failed", "DeadlineExceeded"), "preempted", "walltime"),
        (over("Failed", "BackoffLimitExceeded"), "preempted", "preempted"),
        (Scene(None), "finished", "finished"),
    ],
)
def test_the_record_says_what_only_the_cluster_knows(tmp_path: Path, scene: Scene, word: str, outcome: str) -> None:
    put_attempt(tmp_path, record(word))
    correct(tmp_path, scene, GIVEN)
    assert read_attempts(tmp_path)[0]["outcome"] == ended(tmp_path, scene, GIVEN).outcome == outcome


def test_a_removed_release_whose_pods_still_save_is_not_over() -> None:
    assert not Scene(None, (Pod("p", containers=RUNNING, is_leaving=True),)).is_over


def test_queued_or_running(tmp_path: Path) -> None:
    both = Scene(Workload("Job"), (Pod("a", containers=RUNNING), Pod("b", index=1, containers=RUNNING)))
    one = Scene(Workload("Job"), both.pods[:1])
    assert living(tmp_path, one, 2, GIVEN) is None
    assert living(tmp_path, both, 2, GIVEN).state == "running"  # type: ignore[union-attr]
    put_attempt(tmp_path, record(None))
    assert living(tmp_path, one, 2, GIVEN).state == "running"  # type: ignore[union-attr]
    put_attempt(tmp_path, record("node_failure", decision={"action": "restart", "reason": "going on"}))
    assert living(tmp_path, one, 2, GIVEN) is None
    assert "attempt 1 (going on)" in living(tmp_path, both, 2, GIVEN).reason  # type: ignore[union-attr]


def test_last_words_are_the_heads_and_only_if_they_are_a_record() -> None:
    def scene(message: str, index: int = 0) -> Scene:
        return Scene(None, (Pod("p", index=index, containers=(Container("trainer", "terminated", message=message),)),))

    assert last_words(scene(json.dumps(record("finished"))))["outcome"] == "finished"
    for other in (scene("no json"), scene("[1]"), scene("{}"), scene(json.dumps(record("finished")), index=1)):
        assert last_words(other) == {}


def test_ranks_that_have_not_noticed_yet_do_not_hide_a_lost_node(tmp_path: Path) -> None:
    put_attempt(tmp_path, record(None))
    (tmp_path / "progress.json").write_text(json.dumps({"attempt": 0, "state": "training"}))
    head, there = (Pod(f"run-1-{index}", index=index, phase="Running", containers=RUNNING) for index in (0, 1))
    silent = (Condition("Ready", "False", "NodeStatusUnknown"),)
    lost = replace(there, node="n2", is_leaving=True, conditions=silent)
    words = [living(tmp_path, Scene(Workload("Job"), (head, pod)), 2, GIVEN) for pod in (there, lost)]
    assert [one and one.state for one in words] == ["running", "running"]
    first, second = (one.reason for one in words if one)
    assert first == "training"
    assert second.startswith("training; a node does not answer, and its pod stays Terminating")
