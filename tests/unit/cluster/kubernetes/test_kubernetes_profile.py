"""What a Kubernetes profile may say, as values and as a file; paths as the pods see them."""

from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes.submit.profile import Profile, quantity
from cluster.submitting.site_profiles import ProfileError
from launcher.jobfile import JobFileError
from launcher.site.profile import known_profiles, load_profile

LEAST: dict[str, Any] = {"image": "registry.example.com/t:1", "runs": {"claim": "runs"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": ""}, "image: is needed"),
    ({"image": "a b"}, "image: must be"),
    ({"image": "x\n  hostPID: true"}, "image: must be"),
    ({"backend": "slurm"}, "backend"),
    ({"namespace": "Not A Name"}, "namespace"),
    ({"context": "a\nb"}, "context: has a line break"),
    ({"runs": {"claim": "runs", "size": "1Gi"}}, "either a claim or a size"),
    ({"runs": {}}, "either a claim or a size"),
    ({"runs": {"claim": "runs", "path": "runs"}}, "runs.path: must be an absolute path"),
    ({"runs": {"claim": "runs", "path": "/runs/../etc"}}, "runs.path: must not go upwards"),
    ({"volumes": [{"name": "d", "claim": "d", "path": "d"}]}, "volumes.0.path"),
    ({"volumes": [{"name": "D D", "claim": "d", "path": "/d"}]}, "volumes.0.name"),
    ({"volumes": [{"name": "d", "claim": "d", "path": "/d", "sub_path": "../x"}]}, "volumes.0.sub_path"),
    ({"memory_per_gpu": "lots"}, "memory_per_gpu"),
    ({"gpu_types": {"h100-80": {"nvidia.com/gpu.product": "H100 80"}}}, "gpu_types.h100-80.nvidia.com/gpu.product"),
    ({"node_selector": {"rack": "a b"}}, "node_selector.rack"),
    ({"jobset": "maybe"}, "jobset"),
    ({"kueue": {"queue": "q", "topology": {"near": "x"}}}, "kueue.topology"),
    ({"environment": {"A B": "1"}}, "environment.A B"),
    ({"environment": {"A": "1\nB=2"}}, "environment.A"),
    ({"environment": {"HF_TOKEN": "hf_abc"}}, "environment.HF_TOKEN: looks like a secret"),
    ({"nccl": {"AUTH_KEY": "abc"}}, "nccl.AUTH_KEY: looks like a secret"),
    ({"environment": {"MASTER_ADDR": "x"}}, "environment.MASTER_ADDR: is set by the run itself"),
    ({"secrets": {"TUNEYARD_PLAN": {"name": "a", "key": "b"}}}, "secrets.TUNEYARD_PLAN: is set by the run itself"),
    ({"secrets": {"HF_TOKEN": {"name": "hub", "value": "hf_abc"}}}, "secrets.HF_TOKEN: must name a Secret and its key"),
    ({"secrets": {"HF_TOKEN": {"name": "hub\n", "key": "token"}}}, "secrets.HF_TOKEN.name"),
    ({"backoff_limit": -1}, "backoff_limit"),
    ({"prepare": {"where": "here"}}, "prepare.where"),
    ({"prepare": {"where": "inside", "cpus": 4}}, "prepare.cpus: says nothing without a Job"),
    ({"prepare": {"memory": "lots"}}, "prepare.memory"),
    ({"prepare": {"walltime": "1h30"}}, "prepare.walltime"),
    ({"prepare": {"node_selector": {"pool": "a b"}}}, "prepare.node_selector.pool"),
    ({"prepare": {"queue": "cpus"}}, "prepare.queue: needs `kueue.queue`"),
    ({"prepare": {"where": "submit"}}, "prepare.where: needs the run directory on this machine"),
    (
        {
            "runs": {"claim": "runs", "local": "/mnt/runs"},
            "prepare": {"where": "submit"},
            "volumes": [{"name": "d", "claim": "d", "path": "/d", "local": "/mnt/d"}],
        },
        "prepare.where: needs volume d under the same path here and in pods",
    ),
    ({"imag": "x"}, "imag: unknown"),
]


@pytest.mark.parametrize(("data", "named"), BAD, ids=[named for _, named in BAD])
def test_bad_values_are_refused_and_named(data: dict[str, Any], named: str) -> None:
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict("site", LEAST | data)
    assert named in refused.value.message
    assert "hf_abc" not in refused.value.message


def test_a_file_is_refused_with_lines(tmp_path: Path) -> None:
    text = "backend: kubernetes\nimage: registry.example.com/t:1\nruns: {clam: r}\ngpu_typs: {}\nidentity: {uid: 0}\n"
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(JobFileError) as refused:
        load_profile("./bad.yaml", beside=tmp_path)
    lines = str(refused.value).splitlines()
    assert [line.partition("bad.yaml:")[2].split(":")[0] for line in lines] == ["3", "4", "5"]
    assert "Did you mean claim?" in lines[0] and "Did you mean gpu_types?" in lines[1]
    (tmp_path / "worse.yaml").write_text(text.replace("clam", "claim").split("gpu_typs")[0] + "secrets: {A_KEY: abc}\n")
    with pytest.raises(JobFileError, match=r"worse\.yaml:4: secrets\.A_KEY"):
        load_profile("./worse.yaml", beside=tmp_path)
    (tmp_path / "other.yaml").write_text("backend: nomad\n")
    with pytest.raises(JobFileError, match=r"other\.yaml:1: backend: must be one of kubernetes, slurm \(got 'nomad'\)"):
        load_profile("./other.yaml", beside=tmp_path)


@pytest.mark.parametrize("name", ["gpu-cluster", "kueue-rdma"])
def test_shipped_profiles_can_be_used(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert known_profiles()[name].parent.name == "profiles"
    found = load_profile(name)
    assert found.backend == "kubernetes" and found.gpus_per_node == 8 and found.site()["image"]


VOLUMES = [
    {"name": "data", "claim": "data", "path": "/data", "local": "/mnt/shared/data"},
    {"name": "models", "claim": "models", "path": "/models"},
]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("/mnt/shared/data/chat/*.jsonl", "/data/chat/*.jsonl"),
        ("/mnt/shared/data", "/data"),
        ("/mnt/shared/database/x", None),
        ("/models/llama", "/models/llama"),
        ("/runs/in/model", "/runs/in/model"),
        ("/home/me/rows.jsonl", None),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_paths_are_those_in_the_pods(here: str, there: str | None) -> None:
    assert Profile.from_dict("site", LEAST | {"volumes": VOLUMES}).there(here) == there


def test_what_the_plan_keeps() -> None:
    data = {"gpu_types": {"h100-80": {"gpu": "H100"}}, "node_selector": {"zone": "a"}, "memory_per_gpu": "64Gi"}
    profile = Profile.from_dict("site", LEAST | data)
    site = profile.site("h100-80")
    assert site["node_selector"] == {"zone": "a", "gpu": "H100"}
    assert site["runs"] == {"claim": "runs", "path": "/runs"}
    assert {"name", "gpu_types", "priority_class", "volumes"}.isdisjoint(site)
    assert profile.host_bytes(2) == 2 * 64 * 2**30


def test_where_data_are_tokenised() -> None:
    def kept(**data: Any) -> Any:
        return Profile.from_dict("site", LEAST | data).site().get("prepare")

    assert kept() is None and kept(prepare={"where": "inside"}) is None
    assert kept(prepare={"where": "job"}) == {"where": "job", "cpus": 8, "memory": "16Gi"}
    asked = {"cpus": 4, "memory": "2Gi", "walltime": "2h", "node_selector": {"pool": "cpu"}}
    named = {"where": "job", "cpus": 4, "memory": "2Gi", "node_selector": {"pool": "cpu"}, "walltime_seconds": 7200}
    assert kept(prepare=asked) == named
    local = {"claim": "runs", "local": "/mnt/runs"}
    assert kept(prepare={"where": "submit"}, runs=local) == {"where": "submit"}


@pytest.mark.parametrize(("text", "size"), [("64Gi", 2**36), ("500M", 500 * 10**6), ("1.5Gi", 3 * 2**29), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert quantity(text) == size
