"""Planning for pods: paths as they see them, refusals with the job file's line; and the doctor's findings on nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes.submit.profile import Profile
from launcher.cli._planning import load_and_plan
from launcher.doctor.kubernetes import _drafted_hardware, _nodes
from launcher.jobfile import JobFileError

SITE = """
backend: kubernetes
image: registry.example.com/t:1
runs: {{claim: runs}}
volumes: [{{name: data, claim: data, path: /data, local: {local}}}]
"""


def job_on_pods(tmp_path: Path, write_job: Callable[..., Path], local: Path, **more: str) -> Path:
    (tmp_path / "pods.yaml").write_text(SITE.format(local=local))
    profile = f"cluster: {{profile: {tmp_path / 'pods.yaml'}}}\nresources:"
    return write_job(old="resources:", new=profile)


def test_the_plan_names_files_as_the_pods_see_them(tmp_path: Path, write_job: Callable[..., Path]) -> None:
    job = job_on_pods(tmp_path, write_job, write_job().parent)
    _, plan = load_and_plan(job)
    assert plan.trainer.model.path.startswith("/data/")
    assert all(source.path.startswith("/data/") for source in plan.trainer.data.train)
    assert plan.launch["backend"] == "kubernetes"
    assert plan.launch["kubernetes"]["volumes"][0]["claim"] == "data"
    _, here = load_and_plan(job, files_here=True)
    assert Path(here.trainer.model.path).is_dir()


def test_a_file_that_no_volume_holds_is_refused_with_its_line(tmp_path: Path, write_job: Callable[..., Path]) -> None:
    with pytest.raises(JobFileError, match=r"job\.yaml:\d+: \S*path: no volume of profile pods holds it .*`volumes`"):
        load_and_plan(job_on_pods(tmp_path, write_job, tmp_path / "elsewhere"))


def node(name: str, gpus: int, **labels: str) -> dict[str, Any]:
    status = {
        "allocatable": {"cpu": "64", "nvidia.com/gpu": str(gpus)},
        "images": [{"names": ["registry.example.com/t:1"]}],
    }
    return {"metadata": {"name": name, "labels": labels}, "status": status}


def profile(**more: Any) -> Profile:
    return Profile.from_dict("s", {"image": "registry.example.com/t:1", "runs": {"claim": "runs"}, **more})


def test_the_doctor_on_nodes() -> None:
    nodes = [node("a", 8, gpu="H100"), node("b", 8, gpu="A100")]
    found = {one.name: one for one in _nodes(profile(gpu_types={"h100-80": {"gpu": "H100"}}, gpus_per_node=8), nodes)}
    assert {one.verdict for one in found.values()} == {"ok"}
    assert "16 x nvidia.com/gpu on 2 nodes" in found["gpus"].words
    wrong = profile(gpu_types={"h200": {"gpu": "H200"}}, gpus_per_node=16, image="registry.example.com/other:1")
    found = {one.name: one for one in _nodes(wrong, nodes)}
    assert (found["gpu h200"].verdict, found["gpus per node"].verdict, found["image"].verdict) == (
        "fail",
        "fail",
        "warn",
    )
    assert [one.verdict for one in _nodes(profile(), [node("a", 0)])] == ["warn", "ok"]
    assert all(one.words.startswith("not read") for one in _nodes(profile(), None))


def test_a_draft_of_the_hardware() -> None:
    nodes = [node("a", 8, **{"nvidia.com/gpu.product": "NVIDIA-H100"})]
    lines = "\n".join(_drafted_hardware(nodes))
    assert (
        "gpus_per_node: 8" in lines and "cpus_per_gpu: 8" in lines and "{nvidia.com/gpu.product: NVIDIA-H100}" in lines
    )
    assert "ask the site" in next(iter(_drafted_hardware(None)))
