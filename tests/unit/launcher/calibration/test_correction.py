"""Corrections: towards what was measured, careful with few runs, never below what is counted."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from launcher.calibration.correction import Calibration, corrected_memory, corrected_speed
from launcher.calibration.observed import all_measurements, comparison, measurement_of, record_run
from launcher.calibration.store import Key, Measurement, append, read, set_removed, store_path
from launcher.sizing.prediction import Prediction
from launcher.sizing.speed.predict import Speed
from rundir.observed import Observed
from rundir.plan import Plan

KEY = Key(cluster="site", gpu="A100-80", engine="zero2", family="lora")


def measured(ratio: float, key: Key = KEY, name: str = "run", memory: float = 1.0) -> Measurement:
    return Measurement(
        source=name, key=key, time=0.0, steps=200, step_seconds=(2.0, 2.0 * ratio), memory=(1000, int(1000 * memory))
    )


def many(*ratios: float, key: Key = KEY) -> Calibration:
    return Calibration(measurements=[measured(ratio, key, str(n)) for n, ratio in enumerate(ratios)])


def test_more_runs_come_nearer_to_what_they_say() -> None:
    factors = [many(*[1.3] * n).speed(KEY, 1.4).factor for n in range(6)]
    assert factors[0] == 1
    assert factors == sorted(factors)
    assert 1.2 < factors[1] < factors[5] < 1.3
    assert factors[5] > 1.28


def test_one_odd_run_among_many_changes_little() -> None:
    clean, spoilt = many(*[1.2] * 6).speed(KEY, 1.4).factor, many(*[1.2] * 6, 40.0).speed(KEY, 1.4).factor
    assert spoilt == pytest.approx(clean, rel=0.01)


def test_a_correction_is_never_beyond_reason() -> None:
    assert many(*[50.0] * 9).speed(KEY, 1.4).factor == pytest.approx(1.4**3)
    assert many(*[1 / 50] * 9).speed(KEY, 1.4).factor == pytest.approx(1.4**-3)


def test_shrunk_guesses_are_nearer_than_raw_ones_on_runs_to_come() -> None:
    """On clusters whose truth and runs scatter as assumed, the next run is predicted better than without correction."""
    rng = random.Random(1)
    raw, plain, own = 0.0, 0.0, 0.0
    for _ in range(400):
        truth = rng.gauss(0, math.log(1.4) / 1.645)
        runs = [math.exp(rng.gauss(truth, 0.1)) for _ in range(2)]
        coming = rng.gauss(truth, 0.1)
        plain += coming**2
        raw += (coming - math.log(runs[0])) ** 2
        own += (coming - math.log(many(*runs).speed(KEY, 1.4).factor)) ** 2
    assert own < raw < plain


def test_other_kinds_of_runs_count_only_where_there_is_nothing_nearer() -> None:
    engine, method = Key(**{**vars(KEY), "engine": "fsdp2"}), Key(**{**vars(KEY), "family": "full"})
    elsewhere = Key(**{**vars(KEY), "cluster": "other"})
    both = Calibration(
        measurements=[measured(1.2, engine, "a"), measured(0.7, method, "b"), measured(3.0, elsewhere, "c")]
    )
    found = both.speed(KEY, 1.4)
    assert (found.runs, found.rests_on) == (1, "lora on other engines")
    assert found.factor > 1
    assert both.speed(method, 1.4).factor < 1
    assert both.speed(Key(**{**vars(KEY), "gpu": "T4"}), 1.4).runs == 0


def test_memory_gets_stricter_at_once_and_looser_only_with_evidence() -> None:
    def factor(ratio: float, runs: int) -> float:
        return (
            Calibration(measurements=[measured(1.0, name=str(n), memory=ratio) for n in range(runs)]).memory(KEY).factor
        )

    assert factor(1.1, 1) > 1.05
    assert factor(0.9, 1) == factor(0.9, 2) == 1
    assert 0.88 < factor(0.9, 3) < 0.95


def prediction() -> Prediction:
    parts = {"weights": 700, "gradients": 100, "moments": 100, "logits": 100, "runtime": 50, "fragmentation": 20}
    return Prediction(num_parameters=1, num_trainable=1, parts={"loss": parts})


def test_what_is_counted_is_a_floor() -> None:
    def corrected(ratio: float, device: str) -> dict[str, int]:
        runs = [measured(1.0, name=str(n), memory=ratio) for n in range(30)]
        return corrected_memory(prediction(), Calibration(measurements=runs).memory(KEY), device).parts["loss"]

    tight = corrected(0.7, "cuda")
    assert (tight["weights"], tight["gradients"], tight["moments"]) == (700, 100, 100)
    assert tight["logits"] == 0
    assert (tight["runtime"], tight["fragmentation"]) == (50, 20), "those are no part of what torch allocates"
    wide = corrected(1.1, "cuda")
    assert sum(wide.values()) - 70 == pytest.approx(1100, rel=0.01)
    assert sum(corrected(1.1, "cpu").values()) == pytest.approx(1070 * 1.1, rel=0.01)


CROWDED = {"cores": 4, "our_cores": 2.1, "other_cores": 1.8, "other_gpu_bytes": 0}
SHARED_GPU = {"cores": 64, "our_cores": 8.0, "other_cores": 30.0, "other_gpu_bytes": 20 * 2**30}


def one_run(ratio: float, steps: int, **note: Any) -> Measurement:
    pair = (2.0, 2.0 * ratio)
    return Measurement(source="odd", key=KEY, time=0.0, steps=steps, step_seconds=pair, memory=None, note=note)


@pytest.mark.parametrize(
    ("one", "doubt"),
    [
        (one_run(120.0, 3), "only 3 steps"),
        (one_run(0.001, 50), "only 0.1 s"),
        (one_run(3.0, 500, load=CROWDED), "other processes took 1.8 of 4 cores"),
        (one_run(3.0, 500, load=SHARED_GPU), "other processes held 20 GiB of the GPU"),
        (one_run(3.0, 500, load={**CROWDED, "cores": 8}), ""),
        (one_run(3.0, 500), ""),
        (one_run(3.0, 2, rank=0), ""),
    ],
)
def test_what_a_run_cannot_say_about_speed_corrects_nothing(one: Measurement, doubt: str) -> None:
    assert one.speed_doubt == doubt
    assert Calibration(measurements=[one]).speed(KEY, 5.0).runs == (not doubt)


def test_one_run_moves_the_time_within_the_models_own_interval_and_does_not_narrow_it() -> None:
    found = many(120.0).speed(KEY, 5.0)
    assert found.factor == pytest.approx(5.0)
    assert found.width > 5.0 * 4, "what lies outside of the interval shows that the interval was too narrow"
    usual = many(1.2).speed(KEY, 1.4)
    assert usual.width == 1.4
    assert many(1.2, 1.2).speed(KEY, 1.4).width < 1.4


def test_runs_that_disagree_widen_the_interval() -> None:
    alike, apart = many(1.2, 1.25, 1.15).speed(KEY, 1.4), many(0.7, 1.2, 3.0).speed(KEY, 1.4)
    assert alike.width < 1.4 < apart.width
    assert abs(math.log(apart.factor)) < abs(math.log(alike.factor))
    assert many(1.2, 1.2, 40.0).speed(KEY, 1.4).width < 1.4, "one odd run is no disagreement of the others"


def test_speed_is_corrected_as_a_whole_and_its_interval_narrows() -> None:
    speed = Speed(
        step_seconds=2.0,
        parts={"a": 1.5, "b": 0.5},
        tokens_per_second=800,
        tokens_per_gpu=100,
        mfu=0.4,
        tflops_per_gpu=300,
        low=100 / 1.4,
        high=140,
    )
    found = corrected_speed(speed, many(*[1.25] * 8).speed(KEY, 1.4))
    assert found.step_seconds == pytest.approx(2.5, rel=0.02)
    assert sum(found.parts.values()) == pytest.approx(found.step_seconds)
    assert found.tokens_per_gpu * found.step_seconds == pytest.approx(200)
    assert found.low < 80 < found.high
    assert found.high / found.low < 1.4**2 / 1.3
    assert corrected_speed(speed, Calibration().speed(KEY, 1.4)) == speed


def test_store_keeps_the_last_line_of_a_run_and_forgives_damage(tmp_path: Path) -> None:
    file = tmp_path / "new" / "measured.jsonl"
    assert read(file) == []
    append(file, [measured(1.1, name="a"), measured(1.2, name="b")])
    file.write_text(file.read_text() + '{"source": "cut o\n[]\n{"source": "c", "key": {}}\n')
    append(file, [measured(1.3, name="a")])
    assert {one.source: one.step_seconds for one in read(file)} == {"a": (2.0, 2.6), "b": (2.0, 2.4)}


def test_what_was_removed_stays_removed_though_its_run_is_still_there(tmp_path: Path) -> None:
    run, file = write_run(tmp_path / "a"), store_path(None)
    record_run(run)
    set_removed(file, ["a"], True)
    record_run(run)
    assert read(file) == [] == all_measurements(file, [run])
    set_removed(file, ["a"], False)
    assert [one.source for one in read(file)] == ["a"]


def test_measurements_lie_where_a_lab_shares_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TUNEYARD_MEASURED")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LAB", "/lab")
    assert store_path("$LAB/runs") == Path("/lab/runs/measured.jsonl")
    assert store_path(None) == tmp_path / "tuneyard" / "measured.jsonl"


def write_run(folder: Path, **observed: Any) -> Path:
    folder.mkdir()
    plan = {
        "prediction": {
            "measured_as": vars(KEY),
            "uncorrected": {"step_seconds": 2.0, "peak_bytes": 1200, "allocated_bytes": 1000},
            "step_seconds": 2.2,
            "tokens_per_second": 90.0,
            "peak_bytes": 1200,
            "components_bytes": {"weights": 700},
        },
        "launch": {},
    }
    seen = {
        "steps": 10,
        "step_seconds": 2.2,
        "fill": 0.5,
        "tokens_per_second": 99.0,
        "memory_bytes": {"allocated": 1100, "reserved": 1150, "process": 1500},
        "components_bytes": {"weights": 710, "moments": 5},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "observed.json").write_text(json.dumps(seen | observed))
    return folder


def test_a_run_is_compared_with_the_models_own_word_for_it(tmp_path: Path) -> None:
    found = measurement_of(write_run(tmp_path / "a"))
    assert found is not None
    assert found.step_seconds == (2.0, 4.4), "half empty packs: a full step would take twice as long"
    assert found.memory == (1000, 1100)
    empty = measurement_of(write_run(tmp_path / "b", fill=0.0))
    assert empty is not None
    assert empty.step_seconds is None
    assert measurement_of(tmp_path) is None


def test_a_run_is_recorded_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    record_run(run)
    record_run(run)
    file = store_path(None)
    assert len(file.read_text().splitlines()) == 1
    (run / "observed.json").write_text((run / "observed.json").read_text().replace('"steps": 10', '"steps": 30'))
    record_run(run)
    assert [one.steps for one in read(file)] == [30]


def test_report_sees_prediction_beside_observation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    plan, seen = (json.loads((run / name).read_text()) for name in ("plan.json", "observed.json"))
    assert comparison(Plan.from_json(plan), Observed.from_json(seen)) == [
        ("step seconds", 2.2, 2.2),
        ("tokens per second", 90.0, 99.0),
        ("allocated", 1000, 1100),
        ("process", 1200, 1500),
        ("of it weights", 700, 710),
    ]
