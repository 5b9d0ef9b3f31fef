"""When to save: the interval that loses least, and its bounds."""

from __future__ import annotations

import math
import time

import pytest

from trainer.checkpoint.save_interval import (
    FIRST_SECONDS,
    LEAST_SECONDS,
    MOST_SECONDS,
    PRIOR_MTBF_SECONDS,
    SaveClock,
    auto_interval_seconds,
    observed_mtbf_seconds,
)
from trainer.config import CheckpointConfig

HOUR = 3600.0


def test_young_between_the_bounds() -> None:
    assert auto_interval_seconds(2.0, 10.0, 6 * HOUR, 0.035) == pytest.approx(math.sqrt(2 * 2.0 * 6 * HOUR))


@pytest.mark.parametrize("mtbf_seconds", [60.0, HOUR, 1000 * HOUR])
@pytest.mark.parametrize("write_seconds", [0.1, 5.0, 300.0])
@pytest.mark.parametrize("stall_seconds", [0.001, 1.0, 100.0])
def test_bounds_hold_whatever_was_measured(stall_seconds: float, write_seconds: float, mtbf_seconds: float) -> None:
    found = auto_interval_seconds(stall_seconds, write_seconds, mtbf_seconds, 0.035)
    assert stall_seconds / found <= 0.035 + 1e-9, "training waits for at most this share"
    assert write_seconds / found <= 0.25 + 1e-9, "storage is written to for at most this share"
    assert found >= LEAST_SECONDS
    assert found <= max(MOST_SECONDS, stall_seconds / 0.035, 4 * write_seconds)


def test_more_failures_mean_shorter_intervals() -> None:
    intervals = [auto_interval_seconds(5.0, 20.0, mtbf, 0.1) for mtbf in (HOUR, 4 * HOUR, 24 * HOUR)]
    assert intervals == sorted(intervals)
    assert intervals[0] < intervals[-1]


def test_the_expected_loss_is_least_there() -> None:
    """Cost per second of training: waiting for saves, and half an interval for every failure."""
    stall, mtbf = 4.0, 3 * HOUR

    def loss(interval: float) -> float:
        return stall / interval + interval / (2 * mtbf)

    best = auto_interval_seconds(stall, 1.0, mtbf, 0.5)
    assert all(loss(best) <= loss(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


def test_the_clock_measures_before_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = SaveClock(CheckpointConfig(), mtbf_seconds=6 * HOUR, last=100.0)
    now[0] += FIRST_SECONDS - 1
    assert not clock.due
    now[0] += 1
    assert clock.due, "the first save comes early: it measures"
    clock.begun()
    clock.measured(2.0, 10.0)
    now[0] += 290
    assert not clock.due
    now[0] += 10
    assert clock.due


@pytest.mark.parametrize(("minutes", "due"), [(None, False), (2.0, True)])
def test_fixed_times_stay_fixed(monkeypatch: pytest.MonkeyPatch, minutes: float | None, due: bool) -> None:
    clock = SaveClock(CheckpointConfig(every_minutes=minutes), last=time.monotonic() - 121)
    clock.measured(100.0, 1000.0)
    assert clock.due is due


@pytest.mark.parametrize(("said", "taken"), [("7200", 7200.0), ("", PRIOR_MTBF_SECONDS), ("often", PRIOR_MTBF_SECONDS)])
def test_the_observed_rate_comes_from_the_node_agent(monkeypatch: pytest.MonkeyPatch, said: str, taken: float) -> None:
    monkeypatch.setenv("TUNEYARD_MTBF_SECONDS", said)
    assert observed_mtbf_seconds() == taken
