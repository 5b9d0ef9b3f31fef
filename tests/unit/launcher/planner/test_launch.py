"""What the node agent is told: when a run hangs, when it is started again, what must be free, what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_samples import GOOD_JOB

from launcher.jobfile import JobFile, JobFileError, load_job
from launcher.planner.plan import Plan, make_plan
from launcher.site.hardware import Machine

WATCHED = """\
resources:
  gpu: none
  cpu_ranks: 2
  hang_minutes: 0.5
  start_minutes: 20
  restart: false
  max_crashes: 0
  health_checks: [[test, -d, /data], [nvidia-smi]]
  skip_health_checks: [clock]
  walltime: 4h
"""


@pytest.fixture
def plan_of(write_job: Callable[..., Path], cpu_machine: Machine) -> Callable[..., Plan]:
    """The plan of the good job with some text replaced."""

    def plan(old: str = "", new: str = "", machine: Machine = cpu_machine) -> Plan:
        return make_plan(load_job(write_job(GOOD_JOB, old, new)).job, machine)

    return plan


def test_watching_by_default(plan_of: Callable[..., Plan]) -> None:
    launch = plan_of().launch
    assert (launch["hang_seconds"], launch["start_seconds"]) == (900, 3600)
    assert launch["restart"] == {"auto": True, "max_crashes": 3, "max_attempts_without_progress": 3}
    assert (launch["health"]["checks"], launch["health"]["skip"]) == ([], [])
    assert "walltime_seconds" not in launch


def test_watching_as_asked(plan_of: Callable[..., Plan]) -> None:
    launch = plan_of("resources: {gpu: none, cpu_ranks: 2}\n", WATCHED).launch
    assert (launch["hang_seconds"], launch["start_seconds"], launch["walltime_seconds"]) == (30, 1200, 14400)
    assert launch["restart"] == {"auto": False, "max_crashes": 0, "max_attempts_without_progress": 3}
    assert launch["health"]["checks"] == [["test", "-d", "/data"], ["nvidia-smi"]]
    assert launch["health"]["skip"] == ["clock"]


def test_the_watch_can_be_turned_off(plan_of: Callable[..., Plan]) -> None:
    assert plan_of("cpu_ranks: 2", "cpu_ranks: 2, hang_minutes: null").launch["hang_seconds"] is None


@pytest.mark.parametrize("wrong", ["hang_minutes: 0", "max_crashes: -1", "health_checks: [[]]", "health_checks: [ls]"])
def test_settings_that_cannot_be_meant(write_job: Callable[..., Path], wrong: str) -> None:
    with pytest.raises(JobFileError, match=f"job.yaml:7: resources.{wrong.split(':')[0]}"):
        load_job(write_job(GOOD_JOB, "cpu_ranks: 2", f"cpu_ranks: 2, {wrong}"))


def test_what_must_be_free_follows_from_the_plan(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("training:", "checkpoint: {keep: 4}\ntraining:")
    prediction = plan.choice.candidate.prediction
    assert prediction is not None
    assert plan.launch["health"]["free_disk_bytes"] == 12 * prediction.num_trainable * 5
    assert plan.launch["health"]["free_memory_bytes"] == 2 * prediction.peak_bytes


def test_the_remedy_is_a_plan_that_needs_what_it_says(write_job, cpu_machine: Machine) -> None:
    text = GOOD_JOB.replace("8192", "32768").replace("cpu_ranks: 2", "cpu_ranks: 2, engine: zero0, micro_batch: 32")
    large = make_plan(load_job(write_job(text)).job, cpu_machine)
    remedy = large.launch["remedies"]["out_of_memory"]
    found = re.fullmatch(
        r"set (resources.micro_batch) to (\d+): predicted (\S+) GiB instead of (\S+), about .*", remedy
    )
    assert found, remedy
    leaner = text.replace("micro_batch: 32", f"micro_batch: {found[2]}")
    changed = make_plan(load_job(write_job(leaner)).job, cpu_machine).choice.candidate
    assert changed.peak_bytes <= 0.85 * large.choice.candidate.peak_bytes
    assert f"{changed.peak_bytes / 2**30:.1f}" == found[3]


@pytest.mark.parametrize(("method", "says"), [("full", "kind: lora"), ("lora", "a shorter data.max_length")])
def test_the_leanest_plan_names_other_ways(plan_of: Callable[..., Plan], method: str, says: str) -> None:
    leanest = f"method: {{kind: {method}}}\nresources: {{engine: zero3, micro_batch: 1, "
    plan = plan_of("resources: {", leanest)
    assert "in a new run" in plan.launch["remedies"]["out_of_memory"]
    assert says in plan.launch["remedies"]["out_of_memory"]


def test_every_plan_has_a_remedy_even_of_an_unknown_shape(job_folder, write_job, cpu_machine, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(job_folder))
    job: JobFile = load_job(write_job(GOOD_JOB, "path: model}", "path: org/name}")).job
    launch = make_plan(job, cpu_machine).launch
    assert launch["remedies"]["out_of_memory"]
    assert (launch["health"]["free_disk_bytes"], launch["health"]["free_memory_bytes"]) == (0, 0)
