"""Bars and lines: what is done, of how much, how fast, and what is left; nothing is made up."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.cli import _meter as meters
from launcher.cli._follow import show_progress
from launcher.cli._meter import Meter
from launcher.cli._phases import read_phase, show_phase, watched
from rundir.observed import PhaseProgress
from rundir.paths import PHASE
from rundir.progress import Progress
from trainer.runtime.phase_progress import EVERY_SECONDS, Counter, counting
from trainer.runtime.phase_progress import FILE as WRITTEN


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])
    return now


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False)


def shown(one: Console) -> str:
    assert isinstance(one.file, io.StringIO)
    return one.file.getvalue()


def test_lines_tell_rate_and_what_is_left_now_and_then_without_control_codes(clock: list[float]) -> None:
    out = console()
    with Meter(out) as meter:
        for second in range(0, 40):
            clock[0] = 1000.0 + second
            meter.show("tokenising", 50 + 5 * second, 1050, unit="MB")
    lines = shown(out).splitlines()
    assert len(lines) == 4, "one at the beginning, and one every ten seconds"
    assert lines[0].split() == ["tokenising", "50/1,050", "MB", "0", "s", "so", "far"], "no rate before there is one"
    assert lines[2].endswith("150/1,050 MB  5 MB/s  20 s so far  3.0 min left")
    assert "\x1b" not in shown(out)


def test_the_rate_is_of_what_is_counted_not_of_the_loading_before(clock: list[float]) -> None:
    out = console()
    with Meter(out) as meter:
        meter.show("tokenising")
        for done in (10, 20, 30):
            clock[0] += 60 if done == 10 else 10
            meter.show("tokenising", done, 100, unit="MB")
    assert shown(out).splitlines()[-1].endswith("30/100 MB  1 MB/s  1.3 min so far  1.2 min left")


def test_nothing_is_left_of_what_has_no_end_and_waiting_is_told_once_a_minute(clock: list[float]) -> None:
    out = console()
    with Meter(out) as meter:
        for second in range(0, 121):
            clock[0] = 1000.0 + second
            meter.show("queued", facts="Priority")
    assert shown(out).splitlines() == [
        "queued      Priority  0 s so far",
        "queued      Priority  60 s so far".replace("60 s", "1.0 min"),
        "queued      Priority  2.0 min so far",
    ]


def test_a_terminal_has_one_bar_for_each_phase_and_none_runs_on(clock: list[float]) -> None:
    out = console(terminal=True)
    with Meter(out) as meter:
        meter.show("loading")
        clock[0] += 3
        meter.show("training", 10, 100, unit="steps", facts="loss 2.5000", left_seconds=90.0)
        meter.print_line("attempt 0 crashed")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(out))
    last = [line for line in text.splitlines() if line.strip()][-2:]
    assert last[0].startswith("loading") and last[1].startswith("training")
    assert "10/100 steps  loss 2.5000  0 s so far  1.5 min left" in last[1]
    assert "attempt 0 crashed" in text


def test_training_goes_on_with_its_bar_after_an_evaluation_and_counts_the_time_of_it(clock: list[float]) -> None:
    out = console(terminal=True)
    with Meter(out) as meter:
        for step in (10, 20, 30):
            meter.show("training", step, 100, unit="steps", left_seconds=5.0)
            clock[0] += 2
            meter.show("evaluating", 3, 4, unit="packs", begun_seconds=1.0)
            clock[0] += 18
        meter.show("training", 40, 100, unit="steps", left_seconds=5.0)
        assert meter._bar is not None and [task.description for task in meter._bar.tasks] == ["training"]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(out))
    last = [line for line in text.splitlines() if line.strip()][-1]
    assert "40/100 steps  0.5 steps/s  1.0 min so far  2.0 min left" in last


def test_the_bar_of_training_ends_where_training_did() -> None:
    out = console(terminal=True)
    with Meter(out) as meter:
        for state, step in (("training", 75), ("finished", 87), ("finished", 87)):
            show_progress(meter, Progress(state=state, step=step, max_steps=87), PhaseProgress())
        assert meter._bar is not None
        assert [(one.description, one.completed) for one in meter._bar.tasks] == [("training", 87), ("exporting", 0)]


@pytest.mark.parametrize(
    ("progress", "phase", "words"),
    [
        ({"state": "preparing"}, {}, "tokenising"),
        ({"state": "preparing", "max_steps": 9, "step": 3},
         {"phase": "tokenising", "done": 1, "total": 4, "unit": "MB"}, "tokenising  1/4 MB"),
        ({"state": "training", "max_steps": 9, "step": 3, "loss": 1.0}, {}, "training    3/9 steps  loss 1.0000"),
        ({"state": "saving", "max_steps": 9, "step": 3}, {}, "training    3/9 steps  saving"),
        ({"state": "evaluating", "max_steps": 9, "step": 3},
         {"phase": "evaluating", "done": 2, "total": 8, "unit": "packs"}, "evaluating  2/8 packs"),
        ({"state": "finished", "max_steps": 9, "step": 9}, {}, "exporting"),
        ({"state": "finished", "max_steps": 9, "step": 9}, {"phase": "answering", "done": 32, "total": 64,
         "unit": "prompts"}, "answering   32/64 prompts"),
    ],
)  # fmt: skip
def test_a_run_shows_the_phase_that_it_is_in(progress: dict[str, Any], phase: dict[str, Any], words: str) -> None:
    out = console()
    with Meter(out) as meter:
        show_progress(meter, Progress.from_json(progress), PhaseProgress.from_json(phase))
    assert shown(out).startswith(words)


def test_what_the_trainer_counts_is_read_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PHASE == WRITTEN
    with counting(tmp_path, "exporting", 4, "tensors") as counter:
        counter.at(1)
        assert not read_phase(tmp_path), "what is over in a second is not told"
        monkeypatch.setattr("trainer.runtime.phase_progress.time.monotonic", lambda: time.perf_counter() + 1e6)
        counter.at(2, "two of them")
        found = read_phase(tmp_path)
        assert (found.phase, found.done, found.total, found.unit) == ("exporting", 2, 4, "tensors")
        out = console()
        with watched(tmp_path, out, "loading"):
            until = time.time() + 10
            while not shown(out) and time.time() < until:
                time.sleep(0.02)
        assert shown(out).startswith("exporting   2/4 tensors") and "two of them" in shown(out)
    assert list(tmp_path.iterdir()) == []
    Counter(None, "nowhere").at(1)


def test_a_phase_whose_counter_was_killed_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / PHASE).write_text(json.dumps({"phase": "exporting", "done": 1, "time": time.time() - 1000}))
    assert not read_phase(tmp_path)
    (tmp_path / PHASE).write_text('{"phase": ')
    assert not read_phase(tmp_path)
    odd = {"phase": "exporting", "done": "x", "total": None, "unit": 3, "time": time.time()}
    (tmp_path / PHASE).write_text(json.dumps(odd))
    with Meter(console()) as meter:
        show_phase(meter, read_phase(tmp_path))
    assert EVERY_SECONDS > 0
