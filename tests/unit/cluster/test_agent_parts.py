"""The agent's parts that need no processes: escalation, stop requests, commands, what logs tell."""

import os
import signal
from pathlib import Path

import pytest

import cluster
from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS, Escalation, Phase, telling_words
from cluster.agent.process.launch import phase_command, phase_environment
from cluster.agent.process.stop_request import StopRequests
from cluster.run.goodput import with_steps
from rundir.attempts import AttemptRecord
from rundir.errors import RunDirError, TuneyardError
from rundir.plan import HealthSettings, LaunchSpec, RestartLimits
from rundir.stop import read_stop, write_stop
from tests.support.documents import typed_progress

LAUNCH = LaunchSpec(
    nodes=1,
    ranks_per_node=2,
    device="cpu",
    threads_per_rank=3,
    grace_seconds=60.0,
    phases=("prepare", "train"),
)


def test_escalation_waits_for_the_grace_period_then_terminates_then_kills_once_each() -> None:
    escalation = Escalation(grace_seconds=60)
    assert escalation.due(None, now=10**6) is None
    assert escalation.due(asked_at=100, now=159.9) is None
    assert not escalation.begun
    assert escalation.due(asked_at=100, now=160) == signal.SIGTERM
    assert escalation.begun
    assert escalation.due(asked_at=100, now=160 + TERM_TO_KILL_SECONDS - 0.1) is None
    assert escalation.due(asked_at=100, now=160 + TERM_TO_KILL_SECONDS) == signal.SIGKILL
    assert escalation.due(asked_at=100, now=10**6) is None


@pytest.fixture
def stop_requests(tmp_path: Path):
    """Listens to real signals of this process, and gives them back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    before |= {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    made = StopRequests(tmp_path, lambda words: None)
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "preempted"),
        (signal.SIGUSR1, "walltime"),
        (signal.SIGUSR2, "preempted"),
        (signal.SIGINT, "stopped"),
        (signal.SIGHUP, "stopped"),
    ],
)
def test_a_signal_becomes_a_stop_file(stop_requests: StopRequests, tmp_path: Path, number, reason: str) -> None:
    assert stop_requests.poll() is None
    send(number)
    assert stop_requests.poll().reason == reason
    assert read_stop(tmp_path).by == number.name
    assert stop_requests.signalled_at is not None


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (signal.SIGUSR1, signal.SIGTERM, "walltime"),  # the first request counts
        (signal.SIGTERM, signal.SIGINT, "stopped"),  # but a user's wins
        (signal.SIGINT, signal.SIGTERM, "stopped"),
    ],
)
def test_of_two_signals(stop_requests: StopRequests, first, second, reason: str) -> None:
    send(first)
    stop_requests.poll()
    begun = stop_requests.signalled_at
    send(second)
    assert stop_requests.poll().reason == reason
    assert stop_requests.signalled_at == begun  # the grace period is not extended


def test_a_signal_keeps_who_cancelled(stop_requests: StopRequests, tmp_path: Path) -> None:
    write_stop(tmp_path, "stopped", "tuneyard cancel")
    send(signal.SIGINT)
    assert stop_requests.poll().by == "tuneyard cancel"


def test_a_stop_file_alone_starts_no_grace_period(stop_requests: StopRequests, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert (stop := stop_requests.poll()) is not None
    assert stop.is_users
    assert stop_requests.signalled_at is None


def test_on_a_full_disk_the_ranks_still_see_a_stop_file_and_the_reason_is_kept(
    stop_requests: StopRequests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunDirError("stop: cannot be written: No space left on device")

    monkeypatch.setattr("cluster.agent.process.stop_request.write_stop", full)
    send(signal.SIGTERM)
    assert stop_requests.poll().reason == "preempted"
    assert (tmp_path / "stop").exists()


def test_training_runs_under_torchrun_and_the_rest_alone(tmp_path: Path) -> None:
    run_dir = tmp_path / "support-1a2b"
    command = phase_command(LAUNCH, "train", run_dir, attempt=7)
    assert "--nproc-per-node=2" in command
    assert "--max-restarts=0" in command
    assert "--rdzv-id=support-1a2b-007" in command
    assert command[-3:] == ["-m", "cluster.agent.process.rank_entry", str(run_dir)]
    assert phase_command(LAUNCH, "export", run_dir, 7)[1:] == ["-m", "trainer", "export", str(run_dir)]


def test_the_environment_adds_to_what_is_there() -> None:
    made = phase_environment(LAUNCH, 7, Path("/logs"), {"HOME": "/h", "PYTHONPATH": "/mine"})
    assert made["HOME"] == "/h"
    assert made["PYTHONPATH"].split(os.pathsep) == ["/mine", str(Path(cluster.__file__).parents[1])]
    assert made["OMP_NUM_THREADS"] == "3"
    assert made["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"
    cuda = phase_environment(LAUNCH.changed(device="cuda"), 7, Path("/logs"), {"CUDA_VISIBLE_DEVICES": "1"})
    assert cuda["CUDA_VISIBLE_DEVICES"] == "1"
    assert "DS_ACCELERATOR" not in cuda


def test_a_launch_that_cannot_be_started_is_refused() -> None:
    given = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1}
    with pytest.raises(TuneyardError, match="lacks phases"):
        LaunchSpec.from_json(given).require_startable()
    with pytest.raises(TuneyardError, match="unknown bake"):
        LaunchSpec.from_json({**given, "phases": ["prepare", "bake"]}).require_startable()


def test_optional_keys_of_a_launch_have_defaults() -> None:
    given = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    plain = LaunchSpec.from_json(given)
    assert (plain.hang_seconds, plain.start_seconds, plain.restart) == (900.0, 3600.0, RestartLimits())
    nulls = dict.fromkeys(["hang_seconds", "start_seconds", "restart", "health", "remedies"])
    quiet = LaunchSpec.from_json({**given, **nulls})
    assert (quiet.hang_seconds, quiet.start_seconds) == (None, None)
    assert (quiet.restart, quiet.health, quiet.remedies) == (RestartLimits(), HealthSettings(), {})


TORCHRUN = """
============================================================
cluster.agent.process.rank_entry FAILED
------------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_12:00:00
  host      : vm
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 12)
"""


def test_the_first_failing_rank_is_found_in_torchruns_words(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    train = Phase("train", [], {}, log, 0)
    assert telling_words(train) == ""
    log.write_text(TORCHRUN)
    assert telling_words(train) == "rank 3 killed by SIGKILL"
    log.write_text("working\nrows.jsonl:3: not JSON\n\n")
    assert telling_words(Phase("prepare", [], {}, log, 0)) == "rows.jsonl:3: not JSON"


def steps_of(progress: dict, attempt: int) -> dict:
    return with_steps(AttemptRecord.from_json({"attempt": attempt}), typed_progress(progress)).to_json() | {
        "attempt": None
    }


@pytest.mark.parametrize("resumed", [100, {"step": 100}])
def test_steps_come_from_this_attempts_progress_only(resumed) -> None:
    progress = {"attempt": 1, "step": 120, "resumed_from": resumed, "last_checkpoint": {"step": 110}}
    progress["longest_seconds"] = {"step": 0.5, "save": 4.0}
    assert list(steps_of(progress, 1).values())[1:] == [100, 120, 110, {"step": 0.5, "save": 4.0}]
    assert list(steps_of(progress, 2).values())[1:] == [None, None, None, {}]
    assert steps_of({"attempt": 1, "step": 0, "resumed_from": None}, 1)["first_step"] == 0


def test_an_attempt_that_never_trained_made_no_step() -> None:
    progress = {"attempt": 1, "state": "preparing", "step": 120, "resumed_from": None, "last_checkpoint": {"step": 120}}
    assert list(steps_of(progress, 1).values())[1:] == [120, 120, 120, {}]


@pytest.mark.parametrize(("spent", "first"), [({"load": 2.0, "first_step": 0.0}, 120), ({"first_step": 1.0}, 0)])
def test_an_attempt_that_failed_while_loading_made_no_step(spent, first: int) -> None:
    progress = {"attempt": 1, "state": "failed", "step": 120, "resumed_from": None, "phase_seconds": spent}
    assert steps_of(progress, 1)["first_step"] == first
