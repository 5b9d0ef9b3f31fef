"""Where a cluster's runs tokenise, by the site profile, and what the plan says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launcher_samples import GOOD_JOB

from launcher.cli.submit import prepares_here
from launcher.jobfile import JobFileError, load_job
from launcher.planner.plan import Plan, make_plan
from launcher.planner.tokenising import tokenising
from launcher.site.hardware import Machine
from launcher.site.profile import load_profile

SITE = "backend: slurm\naccount: a\ngpu_request: none\n"


@pytest.fixture
def planned(write_job: Callable[..., Path], cpu_machine: Machine, tmp_path: Path) -> Callable[[str], Plan]:
    """The good job's plan for a site with more lines in its profile."""

    def plan(lines: str) -> Plan:
        (tmp_path / "site.yaml").write_text(SITE + lines)
        profile = load_profile("./site.yaml", tmp_path)
        return make_plan(load_job(write_job(GOOD_JOB)).job, cpu_machine, profile)

    return plan


def told(plan: Plan) -> dict[str, Any] | None:
    return next((one.as_json() for one in plan.decisions if one.setting == "launch.prepare"), None)


def test_inside_unless_the_profile_says_a_partition(planned: Callable[[str], Plan]) -> None:
    for lines in ("", "prepare: {where: inside}\n"):
        assert "prepare" not in planned(lines).launch["slurm"] and told(planned(lines)) is None


def test_a_job_of_its_own_and_what_it_asks_for(planned: Callable[[str], Plan]) -> None:
    plan = planned("prepare: {partition: cpu, cpus: 16, memory: 64G, walltime: 2h, qos: long}\n")
    assert plan.launch["slurm"]["prepare"] == {
        **{"where": "job", "partition": "cpu", "account": "a", "qos": "long"},
        **{"cpus": 16, "memory": "64G", "walltime_seconds": 7200},
    }
    said = told(plan)
    assert said is not None and said["value"] == "job" and "16 cores" in said["reason"]
    assert not prepares_here(plan.launch)


def test_on_the_submitting_machine(planned: Callable[[str], Plan]) -> None:
    plan = planned("prepare: {where: submit}\n")
    assert prepares_here(plan.launch) and told(plan) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        "{where: there}",
        "{partition: cpu, where: submit}",
        "{cpus: 0}",
        "{walltime: soon}",
        "{memory: much}",
        "{gpus: 1}",
    ],
)
def test_a_wrong_profile_is_refused_with_its_line(planned: Callable[[str], Plan], wrong: str) -> None:
    with pytest.raises(JobFileError, match=r"site\.yaml:4: prepare"):
        planned(f"prepare: {wrong}\n")


def test_gpus_that_would_wait_are_priced(planned: Callable[[str], Plan]) -> None:
    candidate = planned("").choice.candidate
    on_gpus = replace(candidate, step_layout=replace(candidate.step_layout, device="cuda", world_size=64))
    inside, job = {"backend": "slurm", "slurm": {}}, {"where": "job", "partition": "cpu", "cpus": 32}
    (one,) = tokenising(inside, 3.6e9, 8, on_gpus)
    assert one.value == "inside" and "1.2 h for 3,600,000,000 tokens while 64 GPUs wait (80.0 GPU-hours)" in one.reason
    (other,) = tokenising({"backend": "slurm", "slurm": {"prepare": job}}, 3.6e9, 8, on_gpus)
    assert "about 19 min" in other.reason and "20.0 GPU-hours less than inside" in other.reason
    (pods,) = tokenising({"backend": "kubernetes", "kubernetes": {}}, 3.6e9, 8, on_gpus)
    assert "80.0 GPU-hours" in pods.reason and "`prepare: {where: job}` in the site profile" in pods.reason
    of_kubernetes = {"backend": "kubernetes", "kubernetes": {"prepare": {"where": "job", "cpus": 32}}}
    (own,) = tokenising(of_kubernetes, 3.6e9, 8, on_gpus)
    assert own.value == "job" and "32 cores, about 19 min" in own.reason and "20.0 GPU-hours less" in own.reason
    assert list(tokenising(inside, 1e6, 8, on_gpus)) == list(tokenising({}, 3.6e9, 8, on_gpus)) == []
