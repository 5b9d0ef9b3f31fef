"""Documents over whatever JSON they meet, and what follows from an outcome."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rundir.attempts import Action, AttemptRecord, Decision, attempt_record
from rundir.errors import RunDirError
from rundir.files import atomic_write, json_lines
from rundir.metrics import Metrics, last_of_each_step
from rundir.outcome import Outcome, StopReason
from rundir.paths import MIRRORED, RunPaths, grows
from rundir.plan import LaunchSpec, Plan
from rundir.progress import Progress

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("value", [None, [], "text", 3, {"attempt": [], "outcome": {}, "nodes": 1, "decision": "x"}])
def test_a_value_of_another_type_reads_as_if_it_were_absent(value: Any) -> None:
    record = AttemptRecord.from_json(value)
    assert (record.number, record.nodes, record.decision, record.last_step) == (-1, (), Decision(), None)
    assert attempt_record(value) is None


FIELDS = [
    # key and its value, the field, what it reads as
    ("first_step", 12.0, "first_step", 12),
    ("first_step", 12.5, "first_step", None),
    ("first_step", True, "first_step", None),
    ("started", "soon", "started", None),
    ("cause", 5, "cause", "5"),
    ("nodes", ["a", 2], "nodes", ("a", "2")),
    ("seconds", {"train": 3, "export": None}, "seconds", {"train": 3}),
    ("evidence", [{"node": "a"}, 7], "evidence", AttemptRecord.from_json({"evidence": [{"node": "a"}]}).evidence),
    ("outcome", "hang", "outcome", Outcome.HANG),
    ("outcome", "of a newer version", "outcome", Outcome.CRASHED),
    ("outcome", None, "outcome", None),
]


@pytest.mark.parametrize(("key", "value", "name", "read"), FIELDS)
def test_how_a_field_reads(key: str, value: Any, name: str, read: Any) -> None:
    record = AttemptRecord.from_json({key: value})
    assert getattr(record, name) == read
    assert record.to_json() == {key: value}, "it is kept as it was"


def test_a_change_keeps_what_is_not_known_and_the_order_of_keys() -> None:
    before = {"new": {"a": 1}, "attempt": 3, "outcome": None, "cause": None}
    record = AttemptRecord.from_json(before)
    changed = record.changed(outcome=Outcome.STOPPED, decision=Decision.to_stop("enough"))
    decision = {"action": "stop", "reason": "enough", "wait_seconds": 0.0, "exclude": []}
    assert list(changed.to_json().items()) == [
        *{**before, "outcome": "stopped"}.items(),
        ("decision", decision),
    ]
    assert json.loads(json.dumps(changed.to_json())) == changed.to_json()
    assert record.to_json() == before
    with pytest.raises(TypeError, match="no field 'outcom'"):
        record.changed(outcom=Outcome.STOPPED)


def test_null_can_be_a_value_of_its_own() -> None:
    assert LaunchSpec.from_json({}).hang_seconds == 900.0
    assert LaunchSpec.from_json({"hang_seconds": None}).hang_seconds is None
    assert LaunchSpec.from_json({"join_seconds": None}).join_seconds == 600.0


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"nodes": 1}, "launch lacks ranks_per_node, device, threads_per_rank, grace_seconds, phases"),
        ({"phases": ["bake"]}, "launch lacks"),
        ({"restart": {"max_crashes": -1}}, "launch lacks"),
    ],
)
def test_a_plan_is_read_with_tolerance_and_started_with_none(launch: dict[str, Any], words: str) -> None:
    plan = Plan.from_json({"launch": launch})
    assert plan.launch.restart.backoff_seconds == 10.0
    with pytest.raises(RunDirError, match=words):
        plan.launch.require_startable()


@pytest.mark.parametrize(
    ("outcome", "terminal", "fault", "requested", "command", "agent", "agent_restarting"),
    [
        ("finished", True, False, False, 0, 0, 0),
        ("stopped", True, False, True, 75, 75, 75),
        ("fatal", True, False, False, 5, 2, 2),
        ("preempted", False, False, True, 75, 3, 75),
        ("walltime", False, False, True, 75, 3, 75),
        ("node_failure", False, False, False, 5, 3, 75),
        ("hang", False, True, False, 5, 3, 75),
        ("crashed", False, True, False, 5, 3, 75),
    ],
)
def test_what_follows_from_an_outcome(
    outcome: str, terminal: bool, fault: bool, requested: bool, command: int, agent: int, agent_restarting: int
) -> None:
    found = Outcome(outcome)
    assert (found.is_terminal, found.is_fault, found.was_requested) == (terminal, fault, requested)
    assert bool(found.reason_to_stop) == terminal
    codes = (found.exit_code, found.agent_exit_code(restarts=False), found.agent_exit_code(restarts=True))
    assert codes == (command, agent, agent_restarting)


@pytest.mark.parametrize(("text", "reason"), [("walltime", "walltime"), ("lunch", "stopped"), (None, "stopped")])
def test_an_unknown_reason_to_stop_is_the_users(text: str | None, reason: str) -> None:
    assert StopReason.parse(text) == reason
    assert StopReason.parse(text).outcome.value == reason


def test_whether_an_attempt_has_trained() -> None:
    assert Progress(state="training").has_trained
    assert not Progress(state="loading").has_trained
    assert not Progress(state="failed", phase_seconds={"load": 2.0, "first_step": 0.0}).has_trained


def test_a_step_that_was_trained_again_counts_as_it_was_trained_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1}\n{"step": 1, "loss": 3}\n{"step": 2, "loss": 0.5}\n{"loss": 9}\n{"ste')
    found = last_of_each_step(Metrics.from_json(line) for line in json_lines(path))
    assert [(line.step, line.loss) for line in found] == [(1, 3), (2, 0.5)]


def test_a_file_that_cannot_be_replaced_is_still_there_and_nothing_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, "new", many_hosts=True)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_what_a_mirror_carries_grows_or_is_replaced() -> None:
    paths = RunPaths(Path("run"))
    assert grows("logs/metrics.jsonl") and grows("logs/attempt-000/rank-00000.log")
    assert not any(grows(path) for path in (*MIRRORED, "logs/attempt-000/../../x.log", "logs/attempt-000/a.pid"))
    assert Path("run") / MIRRORED[0] == paths.attempts


def test_actions_of_the_policy() -> None:
    again = Decision.to_restart("going on", 10.0)
    assert (again.action, again.restarts, again.stops) == (Action.RESTART, True, False)
    assert (Decision().restarts, Decision().stops) == (False, False), "no decision is neither"


def test_the_enumerations_cost_every_command_next_to_nothing() -> None:
    code = "import sys, rundir.outcome, rundir.states; print(*({'typing', 'json', 'dataclasses'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
