"""A run that went out of memory is not said to fit again: from the files of its directory to the next plan."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.calibration.correction import Calibration
from launcher.calibration.observed import record_run
from launcher.calibration.out_of_memory import out_of_memory_measurements
from launcher.calibration.store import Key, Measurement, read, store_path
from launcher.cli import run as tuneyard
from launcher.replan.revise import replanned
from tests.support.documents import put_attempt

JOB = """
name: big
model: {{path: Qwen/Qwen2.5-7B}}
data:
  train: [{{path: ./rows.jsonl}}]
  max_length: 4096
training: {{max_steps: 100, tokens_per_step: 131072}}
method: {{kind: lora, r: 16}}
resources: {{gpu: a100-80, nodes: 1{engine}}}
cluster: {{profile: ./site.yaml}}
"""
SITE = """
backend: slurm
partition: a100
account: lab
run_root: {root}
gpu_types: {{a100-80: a100}}
gpus_per_node: 4
max_walltime: 4h
"""
CAUSE = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def evidence(kind: str) -> list[dict[str, str]]:
    return [{"kind": kind, "node": "host", "line": CAUSE, "blames": "job"}]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Plans the job as the command line does, for four A100s on a cluster; its plan.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNEYARD_MEASURED", raising=False)
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "site.yaml").write_text(SITE.format(root=tmp_path / "shared"))

    def plan(*options: str, engine: str = "") -> dict[str, Any]:
        (tmp_path / "job.yaml").write_text(JOB.format(engine=engine))
        capsys.readouterr()
        code = tuneyard(["plan", "job.yaml", "--json", *options])
        said = capsys.readouterr()
        assert code == 0, said.err
        found: dict[str, Any] = json.loads(said.out)
        return found

    return plan


def died(folder: Path, plan: dict[str, Any], number: int = 0, kind: str = "out_of_memory", **more: Any) -> Path:
    """A run directory as the node agent leaves it after an attempt that ended so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    began = time.time() - 60
    record = {"attempt": number, "outcome": "fatal", "cause": CAUSE, "started": began, "ended": began + 30}
    put_attempt(folder, record | {"seconds": {"train": 30.0}, "evidence": evidence(kind)} | more)
    return folder


def layout(found: dict[str, Any]) -> tuple[Any, ...]:
    execution, training = found["trainer"]["execution"], found["trainer"]["training"]
    return execution["engine"], execution["micro_batch"], training["gradient_checkpointing"]


def test_the_next_plan_is_smaller_until_it_fits(planned: Callable[..., Any], tmp_path: Path) -> None:
    first = planned()
    record_run(died(tmp_path / "runs" / "big-1", first))
    assert len(read(tmp_path / "shared" / "measured.jsonl")) == 1
    second = planned()
    assert layout(second) != layout(first)
    engine = first["trainer"]["execution"]["engine"]
    turned_down = [
        one
        for one in second["rejected"]
        if (one["engine"], one["micro_batch"], one["gradient_checkpointing"]) == layout(first)
    ]
    assert turned_down, "the same layout is looked at"
    assert all(one["reason"].startswith("does not fit") for one in turned_down)
    assert all("ran out of memory" in one["reason"] for one in turned_down)
    assert second["prediction"]["uncorrected"]["allocated_bytes"] < first["prediction"]["uncorrected"][
        "allocated_bytes"
    ] or (second["trainer"]["execution"]["engine"] != engine)
    assert layout(planned("--no-correction")) == layout(first)


def test_what_was_as_large_does_not_fit_on_that_engine_either(planned: Callable[..., Any], tmp_path: Path) -> None:
    first = planned(engine=", engine: zero1")
    record_run(died(tmp_path / "runs" / "big-1", first))
    second = planned(engine=", engine: zero1")
    before, after = (one["prediction"]["uncorrected"]["allocated_bytes"] for one in (first, second))
    assert after < before
    assert second["prediction"]["corrections"]["memory"]["runs"] == 1
    record_run(died(tmp_path / "runs" / "big-2", second))
    third = planned(engine=", engine: zero1")
    assert third["prediction"]["uncorrected"]["allocated_bytes"] < after, "and so on, run by run"


def test_runs_that_nobody_recorded_count_too(planned: Callable[..., Any], tmp_path: Path) -> None:
    first = planned()
    died(tmp_path / "runs" / "big-1", first)
    assert layout(planned()) != layout(first)
    assert not (tmp_path / "shared" / "measured.jsonl").exists(), "plan writes nothing"


def test_resuming_it_with_a_job_file_plans_smaller(planned: Callable[..., Any], tmp_path: Path) -> None:
    first = planned()
    run_dir = died(tmp_path / "runs" / "big-1", first)
    assert layout(replanned(run_dir, tmp_path / "job.yaml").plan) != layout(first)


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "connection"},
        {"kind": "host_out_of_memory"},
        {"outcome": "crashed"},
        {"seconds": {"prepare": 3.0}},
    ],
    ids=str,
)
def test_other_deaths_teach_nothing_about_gpus(
    more: dict[str, Any], planned: Callable[..., Any], tmp_path: Path
) -> None:
    assert not list(out_of_memory_measurements(died(tmp_path / "run", planned(), **more)))


def test_each_attempt_is_held_against_the_plan_that_it_ran(planned: Callable[..., Any], tmp_path: Path) -> None:
    first = planned()
    run_dir = died(tmp_path / "run", first)
    record_run(run_dir)
    second = planned()
    (run_dir / "plan.json").rename(run_dir / "plan-000.json")
    changed = second | {"changes": [{"time": time.time(), "settings": []}]}
    died(run_dir, changed, 1, started=time.time() + 1, ended=time.time() + 2)
    said = [one.memory[0] for one in out_of_memory_measurements(run_dir) if one.memory]
    assert said == [plan["prediction"]["uncorrected"]["allocated_bytes"] for plan in (first, second)]
    record_run(run_dir)
    record_run(run_dir)
    assert len((tmp_path / "shared" / "measured.jsonl").read_text().splitlines()) == 2


KEY = Key(cluster="site", gpu="A100-80", engine="zero2", family="lora")


def one(memory: tuple[int, int], when: float = 0.0, key: Key = KEY, **note: bool) -> Measurement:
    name = f"{when}{key.engine}"
    return Measurement(
        source=name, key=key, time=when, steps=0 if note else 9, step_seconds=None, memory=memory, note=note
    )


def factor(*measurements: Measurement, key: Key = KEY) -> float:
    return Calibration(measurements=measurements).memory(key).factor


def test_the_factor_is_neither_shrunk_nor_capped_and_others_do_not_dilute_it() -> None:
    dead = one((100, 190), out_of_memory=True)
    assert factor(dead) == 1.9
    assert factor(*[one((50, 50), float(n)) for n in range(5)], dead) == 1.9, "smaller runs prove nothing"
    for other in ({"engine": "fsdp2"}, {"family": "qlora"}, {"gpu": "H100-80"}, {"cluster": "else"}):
        assert factor(dead, key=Key(**{**vars(KEY), **other})) == 1


def test_a_later_run_as_large_takes_it_back_and_an_earlier_one_does_not() -> None:
    dead = one((100, 190), when=5.0, out_of_memory=True)
    assert factor(dead, one((100, 100), when=6.0)) < 1.1
    assert factor(dead, one((100, 100), when=4.0)) == 1.9


def test_on_the_cpu_it_is_the_process_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TUNEYARD_MEASURED", raising=False)
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    text = JOB.format(engine=", gpu: none, cpu_ranks: 1, engine: zero0, micro_batch: 1").replace("./site.yaml", "local")
    text = text.replace("gpu: a100-80, ", "").replace("max_steps: 100", "max_steps: 100, gradient_checkpointing: true")
    text = text.replace("Qwen/Qwen2.5-7B", "HuggingFaceTB/SmolLM2-135M").replace("4096", "512")
    (tmp_path / "job.yaml").write_text(text)
    assert tuneyard(["plan", "job.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    run_dir = died(tmp_path / "runs" / "big-1", plan, kind="host_out_of_memory")
    record_run(run_dir)
    (found,) = read(store_path(None))
    assert found.memory == (
        plan["prediction"]["uncorrected"]["peak_bytes"],
        int(plan["prediction"]["limit_bytes"] * 1.01),
    )
    assert tuneyard(["plan", "job.yaml", "--json"]) == 2
    said = capsys.readouterr().err
    assert "no plan fits" in said
    assert "ran out of memory" in said
    assert tuneyard(["plan", "job.yaml", "--json", "--no-correction"]) == 0
