"""What a profile may say: every value is checked, because an #SBATCH line with a line break in it is two."""

from typing import Any

import pytest

from cluster.slurm.profile import Profile
from cluster.submitting.site_profiles import ProfileError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"partition": "gpu\n#SBATCH --uid=0"}, "partition"),
    ({"account": "a\rb"}, "account"),
    ({"qos": "a\x00"}, "qos"),
    ({"comment": "one\u2028two"}, "comment"),
    ({"run_root": "runs"}, "run_root"),
    ({"scratch": "/scratch/$USER"}, "scratch"),
    ({"memory": "lots"}, "memory"),
    ({"memory": "4G\n"}, "memory"),
    ({"gpu_types": {"h100": "h100:8"}}, "gpu_types.h100"),
    ({"gpu_request": "gpus"}, "gpu_request"),
    ({"backend": "pbs"}, "backend"),
    ({"directives": {"wrap": "rm -rf /"}}, "directives.wrap"),
    ({"directives": {"output": "x"}}, "directives.output"),
    ({"directives": {"requeue": True}}, "directives.requeue"),
    ({"directives": {"nice\n#SBATCH --uid": "0"}}, "directives.nice"),
    ({"directives": {"nice": "1\n#SBATCH --uid=0"}}, "directives.nice"),
    ({"directives": {"nice": ""}}, "directives.nice"),
    ({"modules": ["cuda", "a\nb"]}, "modules.1"),
    ({"setup": {"venv": "/v", "conda": "c"}}, "venv and conda"),
    ({"setup": {"conda": "env; rm -rf /"}}, "setup.conda"),
    ({"setup": {"lines": ["ok", "a\nb"]}}, "setup.lines.1"),
    ({"setup": {"container": {"kind": "docker", "image": "x"}}}, "setup.container.kind"),
    ({"setup": {"container": {"kind": "pyxis", "image": "x", "mounts": ["/a,/b"]}}}, "mounts.0"),
    ({"environment": {"A B": "1"}}, "environment.A B"),
    ({"environment": {"A": "1\nB=2"}}, "environment.A"),
    ({"environment": {"WANDB_API_KEY": "abc"}}, "secret"),
    ({"environment": {"HF_TOKEN": "abc"}}, "secret"),
    ({"environment": {"MASTER_ADDR": "n1"}}, "environment.MASTER_ADDR: is set by the run itself"),
    ({"forward": ["HF_TOKEN=abc"]}, "forward.0"),
    ({"forward": ["TUNEYARD_HEAD"]}, "forward.0: is set by the run itself"),
    ({"nccl": {"SOCKET IFNAME": "ib0"}}, "nccl.SOCKET IFNAME"),
    ({"preemption": {"signal": "KILL"}}, "preemption.signal"),
    ({"partitoin": "gpu"}, "partitoin: unknown"),
]


@pytest.mark.parametrize(("data", "named"), BAD, ids=[named for _, named in BAD])
def test_bad_values_are_refused_and_named(data: dict[str, Any], named: str) -> None:
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict("site", data)
    assert named in refused.value.message
    assert "\n" not in refused.value.message.replace("nice\n", "")


def test_all_findings_at_once() -> None:
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict("site", {"partition": "a\nb", "memory": "x", "directives": {"array": "1-9"}})
    assert [finding.key for finding in refused.value.findings] == [("partition",), ("memory",), ("directives", "array")]


def test_secrets_are_forwarded_by_name_and_lookalikes_are_none() -> None:
    made = Profile.from_dict("s", {"forward": ["HF_TOKEN"], "environment": {"TOKENIZERS_PARALLELISM": "false"}})
    assert made.site()["forward"] == ["HF_TOKEN"]


def test_what_the_batch_script_is_told() -> None:
    data = {
        "partition": "gpu",
        "gpu_types": {"h100-80": "h100"},
        "directives": {"switches": 1, "contiguous": True},
        "nccl": {"DEBUG": "WARN", "NCCL_IB_HCA": "mlx5"},
        "environment": {"A": "1"},
        "setup": {"venv": "/v"},
    }
    site = Profile.from_dict("s", data).site("h100-80", (23, 2, 1))
    assert (site["partition"], site["gpu_style"], site["gpu_type"]) == ("gpu", "gpus-per-node", "h100")
    assert site["environment"] == {"A": "1", "NCCL_DEBUG": "WARN", "NCCL_IB_HCA": "mlx5"}
    assert site["directives"] == {"switches": "1", "contiguous": True}
    assert (site["venv"], site["python"]) == ("/v", "/v/bin/python")


@pytest.mark.parametrize(
    ("asked", "version", "style"),
    [
        ("auto", (22, 5, 8), "gpus-per-node"),
        ("auto", (18, 8), "gres"),
        ("auto", (), "gpus-per-node"),
        ("gres", (24, 11), "gres"),
        ("none", (), "none"),
    ],
)
def test_the_gpu_request_follows_the_version(asked: str, version: tuple[int, ...], style: str) -> None:
    assert Profile.from_dict("s", {"gpu_request": asked}).gpu_style(version) == style


def test_conda_and_containers() -> None:
    conda = Profile.from_dict("s", {"setup": {"conda": "/envs/t", "lines": ["ulimit -n 65536"]}}).site()
    assert conda["setup"] == ["ulimit -n 65536", 'eval "$(conda shell.bash hook)"', "conda activate /envs/t"]
    image = {"kind": "pyxis", "image": "/i.sqsh", "mounts": ["/data:/d"]}
    site = Profile.from_dict("s", {"setup": {"container": image}}).site()
    assert (site["container"], site["image"], site["mounts"]) == ("pyxis", "/i.sqsh", ["/data:/d"])
    assert site["python"] == conda["python"] == "python"


def test_scratch_keeps_compiled_kernels_unless_the_profile_says_otherwise() -> None:
    given = {"scratch": "/local/", "environment": {"TRITON_CACHE_DIR": "/elsewhere"}}
    found = Profile.from_dict("site", given).variables()
    assert found == {"TRITON_CACHE_DIR": "/elsewhere", "TORCHINDUCTOR_CACHE_DIR": "/local/inductor"}
    assert Profile.from_dict("site", {}).variables() == {}
