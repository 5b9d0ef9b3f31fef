"""Seconds by phase add up, and the heartbeat is renewed at most once a second."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

import trainer.runtime.progress
from rundir.progress import read_progress
from trainer.runtime.phase_clock import PHASES, PhaseClock
from trainer.runtime.progress import ProgressWriter, record_failure


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def test_every_second_belongs_to_one_phase(now: list[float]) -> None:
    clock = PhaseClock("load")
    now[0] += 2
    clock.enter("first_step")
    now[0] += 3
    clock.enter("training")
    now[0] += 10
    with clock.within("save"):
        now[0] += 1
        with clock.within("evaluate"):
            now[0] += 4
    now[0] += 5
    found = clock.seconds()
    assert found == {**dict.fromkeys(PHASES, 0.0), "load": 2, "first_step": 3, "training": 15, "save": 1, "evaluate": 4}
    assert sum(found.values()) == now[0] - 1000
    assert clock.running == "training"


def test_a_phase_ends_with_its_error(now: list[float]) -> None:
    clock = PhaseClock("training")
    with pytest.raises(OSError, match="full"), clock.within("save"):
        now[0] += 2
        raise OSError("full")
    now[0] += 1
    assert (clock.seconds()["save"], clock.seconds()["training"]) == (2, 1)


def test_what_the_agent_noted_counts(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 110.0)
    monkeypatch.setenv("TUNEYARD_PHASE_STARTED", "100.0")
    monkeypatch.setenv("TUNEYARD_RANK_STARTED", "103.0")
    found = PhaseClock.of_this_process().seconds()
    assert (found["launch"], found["import"]) == (3.0, 7.0)
    monkeypatch.setenv("TUNEYARD_RANK_STARTED", "soon")
    assert PhaseClock.of_this_process().seconds()["launch"] == 0.0


def test_the_heartbeat_is_renewed_once_a_second(tmp_path: Path, now: list[float]) -> None:
    progress = ProgressWriter(tmp_path, attempt=3, phases=PhaseClock("training"))

    def written() -> dict:
        return json.loads((tmp_path / "progress.json").read_text())

    progress.update(state="training", step=7)
    first = written()["heartbeat"]
    now[0] += 0.9
    progress.pulse()
    assert written()["heartbeat"] == first
    now[0] += 0.2
    progress.pulse()
    assert written()["heartbeat"] > first
    assert written()["phase_seconds"]["training"] == pytest.approx(1.1)
    assert (written()["step"], written()["attempt"]) == (7, 3)


def test_only_the_first_rank_writes_and_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    ProgressWriter(tmp_path, attempt=0, writes=False).update(state="training")
    assert not (tmp_path / "progress.json").exists()
    (tmp_path / "progress.json").write_text('{"step": 4, "sta')
    ProgressWriter(tmp_path, attempt=1).update(state="loading")
    assert json.loads((tmp_path / "progress.json").read_text())["state"] == "loading"


def test_the_first_failure_of_an_attempt_stands_whatever_the_first_rank_writes_after_it(tmp_path: Path) -> None:
    progress = ProgressWriter(tmp_path, attempt=1)
    progress.update(state="training", step=7)
    record_failure(tmp_path, 1, "fatal", "out of memory", "a smaller micro-batch")
    record_failure(tmp_path, 1, "crash", "Connection closed by peer")
    progress.update(state="stopped", step=8)
    seen = read_progress(tmp_path)
    assert (seen.state, seen.step, seen.failure.kind) == ("failed", 8, "fatal")
    ProgressWriter(tmp_path, attempt=2).update(state="loading")
    assert read_progress(tmp_path).failure.kind == ""
    record_failure(tmp_path, 2, "crash", "another one")
    assert read_progress(tmp_path).failure.message == "another one"


def test_a_full_disk_does_not_stop_the_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent must not take a run for hung because its progress cannot be written."""
    progress = ProgressWriter(tmp_path, attempt=0)
    progress.update(state="training", step=7)
    file = tmp_path / "progress.json"
    os.utime(file, (1e9, 1e9))
    before = read_progress(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.runtime.progress, "write_json_atomic", full)
    time.sleep(0.01)
    progress.update(step=8)
    after = read_progress(tmp_path)
    assert after.heartbeat is not None and before.heartbeat is not None
    assert after.heartbeat > before.heartbeat
    assert after.step == 7, "what could not be written is not there"
