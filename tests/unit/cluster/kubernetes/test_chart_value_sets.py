"""From plans to the chart's values: every set passes the chart's schema, and nothing in it is more than text."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.errors import ClusterError
from cluster.kubernetes.names import LONGEST, release_name
from cluster.kubernetes.submit.profile import Profile
from cluster.kubernetes.submit.release import prepares_first, require_place_to_prepare
from cluster.kubernetes.submit.values import Submission, as_text, chart_values, multiplied
from rundir.plan import Plan

CHART = Path(__file__).parents[4] / "helm" / "tuneyard"
LEAST: dict[str, Any] = {"image": "registry.example.com/t:1", "runs": {"claim": "runs"}}
NASTY = "a 'b' \"c\" {{ .Values.x }} $(HOME) ${HOME} `x` # & * ! | > % @ naïve ✓ 😀 \x7f \u2028 \ufeff - [x] {y}: z\\"
SITES: dict[str, dict[str, Any]] = {
    "least": {},
    "own claim": {"runs": {"size": "100Gi", "storage_class": "fast"}},
    "gpus": {"gpu_types": {"h100-80": {"gpu": "H100"}}, "cpus_per_gpu": 12, "memory_per_gpu": "200Gi"},
    "other gpus": {"gpu_resource": "amd.com/gpu", "runtime_class": "rocm", "scheduler": "other"},
    "volumes": {"volumes": [{"name": "d", "claim": "d", "path": "/d", "sub_path": "a/b", "read_only": False}]},
    "kueue": {"kueue": {"queue": "q", "priority_class": "p", "topology": {"required": "rack"}}},
    "network": {"host_network": True, "rdma": {"resource": "rdma/hca", "count": 2}, "network_annotation": "a,b"},
    "people": {"identity": {"uid": 5000, "gid": 6000}, "service_account": "mine", "image_pull_secrets": ["r"]},
    "texts": {"environment": {"N": NASTY.replace("\x7f", "").replace("\u2028", "").replace("\ufeff", ""), "Y": "on"}},
    "labels": {"pod_labels": {"team": "a"}, "pod_annotations": {"x.example.com/y": "z"}, "priority_class": "low"},
    "life": {"backoff_limit": 0, "keep_seconds": 600, "unreachable_seconds": 5, "tensorboard": True},
    "space": {"scratch": "100Gi", "shared_memory": "16Gi", "nccl": {"DEBUG": "WARN", "NCCL_IB_HCA": "mlx5"}},
    "secrets": {"secrets": {"HF_TOKEN": {"name": "hub", "key": "token"}}, "network_policy": False},
    "prepare": {
        "prepare": {
            **{"cpus": 4, "memory": "2Gi", "walltime": "2h", "queue": "cpus", "priority_class": "low"},
            **{"node_selector": {"pool": "cpu"}, "service_account": "opener"},
        },
        "kueue": {"queue": "gpus"},
    },
    "taints": {
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "node_selector": {"a": "b"},
    },
}


def values_of(site: dict[str, Any], job: str = "name: x\n", **launch: Any) -> dict[str, Any]:
    facts = {"nodes": 2, "ranks_per_node": 8, "device": "cuda", "threads_per_rank": 4, "grace_seconds": 60.0}
    facts |= {"phases": ["train"], "kubernetes": Profile.from_dict("s", LEAST | site).site("h100-80"), **launch}
    wanted = Submission(
        run_name="tiny-20261121-101112-abcd",
        submitted=1795000000,
        job_text=job,
        plan_text=json.dumps({"launch": facts}),
        workload="job",
        exclude=["n3"],
        prepares="prepare" in site,
    )
    return chart_values(Plan.from_json({"launch": facts}), wanted)


def merged(base: Any, over: Any) -> Any:
    """As Helm lays given values over the chart's own."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{name: merged(base.get(name), value) for name, value in over.items()}}
    return over


@pytest.mark.parametrize("name", SITES)
def test_every_set_of_values_passes_the_charts_schema_and_names_only_what_the_chart_knows(name: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    read = yaml.safe_load(as_text(values_of(SITES[name])))
    assert set(read) <= set(defaults)
    jsonschema.validators.validator_for(schema)(schema).validate(merged(defaults, read))


def test_texts_arrive_as_they_were() -> None:
    job = f"name: x  # {NASTY}\nother: 1\n"
    text = as_text(values_of({}, job=job))
    assert yaml.safe_load(text)["job"] == job
    assert not re.search(r"[^\n -~]", text)


def test_what_a_plan_becomes() -> None:
    site = {"cpus_per_gpu": 12, "memory_per_gpu": "100Gi", "gpu_types": {"h100-80": {"gpu": "H100"}}}
    values = values_of(site, walltime_seconds=3600)
    assert values["resources"] == {"gpus": 8, "cpu": 96, "gpuResource": "nvidia.com/gpu", "memory": "800Gi"}
    assert (values["nodes"], values["graceSeconds"], values["walltimeSeconds"]) == (2, 60, 3600)
    assert values["nodeSelector"] == {"gpu": "H100"} and values["excludeNodes"] == ["n3"]
    assert values["run"] == {"name": "tiny-20261121-101112-abcd", "submitted": 1795000000}
    assert values_of({}, device="cpu")["resources"]["gpus"] == 0


def test_what_tokenises_first() -> None:
    assert "prepare" not in values_of({})
    assert values_of(SITES["prepare"])["prepare"] == {
        **{"enabled": True, "cpus": 4, "memory": "2Gi", "walltimeSeconds": 7200, "queue": "cpus"},
        **{"priorityClass": "low", "nodeSelector": {"pool": "cpu"}, "serviceAccount": "opener"},
    }


@pytest.mark.parametrize(
    ("site", "here", "first"),
    [
        ({}, "", False),
        ({"prepare": {"where": "job"}}, "", True),
        ({"prepare": {"where": "job"}}, "data/fingerprint.json", False),
        ({"prepare": {"where": "job"}}, "data/preflight.json", False),
    ],
)
def test_data_that_are_there_are_not_tokenised_again(
    tmp_path: Path, site: dict[str, Any], here: str, first: bool
) -> None:
    (tmp_path / "data").mkdir()
    if here:
        (tmp_path / here).write_text("{}")
    assert prepares_first(tmp_path, site) == first


def test_only_the_runs_own_directory_is_tokenised_into_here(tmp_path: Path) -> None:
    site = {"prepare": {"where": "submit"}, "runs": {"local": str(tmp_path)}}
    require_place_to_prepare(site, tmp_path)
    with pytest.raises(ClusterError, match=r"is not `runs\.local`") as refused:
        require_place_to_prepare(site, tmp_path / "elsewhere")
    assert "where: job" in refused.value.remedy


def test_a_plan_for_another_place_is_refused() -> None:
    launch = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    wanted = Submission(run_name="x", submitted=0, job_text="", plan_text="", workload="job")
    with pytest.raises(ClusterError, match="names no image"):
        chart_values(Plan.from_json({"launch": launch}), wanted)


@pytest.mark.parametrize(
    ("size", "count", "whole"), [("64Gi", 8, "512Gi"), ("500M", 3, "1500M"), ("1.5Gi", 2, "3221225472")]
)
def test_sizes_are_multiplied(size: str, count: int, whole: str) -> None:
    assert multiplied(size, count) == whole


@pytest.mark.parametrize(
    "name",
    ["tiny-20261121-101112-abcd", "x" * 53 + "-20261121-101112-abcd", "a-" * 26 + "b-20261121-101112-abcd",
     "8b-20261121-101112-abcd", "Some Folder", "-", "naïve-20261121-101112-ab2d"],
)  # fmt: skip
def test_releases_have_names_that_kubernetes_takes(name: str) -> None:
    release = release_name(name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", release) and len(release) <= LONGEST
    if "2026" in name:
        assert release.endswith(name[-21:])
