"""What `status` says of a run that believes it trains while one of its nodes is gone."""

import json
from pathlib import Path

from cluster.kubernetes.facts import Condition, Container, Pod, Workload
from cluster.kubernetes.reading import Scene, living
from cluster.kubernetes.state import Submitted
from cluster.rundir import put_attempt

GIVEN = Submitted(
    **{"release": "run-1a2b", "namespace": "training", "context": "", "workload": "job"},
    **{"submitted": 1000, "path": "/runs/run-1a2b", "mirrored": True},
)
RUNNING = (Container("trainer", "running"),)
HEAD = Pod("run-0", index=0, phase="Running", containers=RUNNING)
LOST = Pod(
    *("run-1", "u1", 1, "Running", "n2", True),
    conditions=(Condition("Ready", "False", "NodeStatusUnknown"),),
    containers=RUNNING,
)


def test_ranks_that_have_not_noticed_yet_do_not_hide_a_lost_node(tmp_path: Path) -> None:
    put_attempt(tmp_path, {"attempt": 0, "submitted": 1000.0})
    (tmp_path / "progress.json").write_text(json.dumps({"attempt": 0, "state": "training"}))
    status = living(tmp_path, Scene(Workload("Job"), (HEAD, LOST)), 2, GIVEN)
    assert status is not None and status.state == "running"
    assert status.reason.startswith("training; a node does not answer, and its pod stays Terminating")
    there = Pod("run-1", index=1, phase="Running", containers=RUNNING)
    status = living(tmp_path, Scene(Workload("Job"), (HEAD, there)), 2, GIVEN)
    assert status is not None and status.reason == "training"
