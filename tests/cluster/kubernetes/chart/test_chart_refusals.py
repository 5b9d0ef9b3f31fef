"""What the chart refuses, in the words that a user reads."""

from typing import Any

import pytest
from chart_values import CHART, RELEASE, Helm

RESERVED = "left to Tuneyard, which sets this variable itself"
SECRET = "a reference to a Secret, under `secrets`, and never the value"
TWICE = "is mounted more than once: runs.path, scratch.path and volumes[].path must differ"
NAME = "does not match pattern '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'"


def volume(**changes: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "data", "claim": "data", "path": "/data", **changes}]}


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no image": ({"image": ""}, ["- image is empty: build one as docs/container.md says, and give --set image="]),
    "no job": ({"job": ""}, ["- job is empty: give the job file with --set-file job=job.yaml"]),
    "both at once": ({"image": "", "job": ""}, ["- image is empty", "- job is empty"]),
    "unknown": ({"replicas": 3}, ["at '': additional properties 'replicas' not allowed"]),
    "misspelt": ({"runs": {"klaim": "x"}}, ["at '/runs': additional properties 'klaim' not allowed"]),
    "text for a number": ({"nodes": "two"}, ["at '/nodes': got string, want integer"]),
    "no nodes": ({"nodes": 0}, ["at '/nodes': minimum: got 0, want 1"]),
    "half a node": ({"nodes": 1.5}, ["at '/nodes': got number, want integer"]),
    "too little margin": ({"terminationMarginSeconds": 5}, ["'/terminationMarginSeconds': minimum: got 5, want 15"]),
    "kind": ({"workload": {"kind": "pytorchjob"}}, ["at '/workload/kind': value must be one of 'job', 'jobset'"]),
    "policy": ({"imagePullPolicy": "always"}, ["must be one of '', 'Always', 'IfNotPresent', 'Never'"]),
    "quantity": ({"resources": {"memory": "32 GB"}}, ["at '/resources/memory': '32 GB' does not match pattern"]),
    "negative": ({"resources": {"cpu": -1}}, ["at '/resources/cpu': minimum: got -1, want 0"]),
    "device": ({"rdma": {"resource": "hca"}}, ["at '/rdma/resource'", "'hca' does not match pattern"]),
    "image with a space": ({"image": "my image"}, ["at '/image': 'my image' does not match pattern"]),
    "short digest": ({"image": "x@sha256:abc"}, ["at '/image': 'x@sha256:abc' does not match pattern"]),
    "run in another folder": ({"run": {"name": "../other"}}, ["at '/run/name': '../other' does not match pattern"]),
    "run with a slash": ({"run": {"name": "a/b"}}, ["at '/run/name': 'a/b' does not match pattern"]),
    "path upwards": ({"runs": {"path": "/runs/../etc"}}, ["at '/runs/path': '/runs/../etc' does not match pattern"]),
    "path from here": (volume(path="data"), ["at '/volumes/0/path': 'data' does not match pattern"]),
    "subPath upwards": (volume(subPath="../x"), ["at '/volumes/0/subPath': '../x' does not match pattern"]),
    "volume without claim": ({"volumes": [{"name": "a", "path": "/a"}]}, ["'/volumes/0': missing property 'claim'"]),
    "hostPath": (volume(hostPath="/"), ["at '/volumes/0': additional properties 'hostPath' not allowed"]),
    "over /tmp": (volume(path="/tmp"), [f"- /tmp {TWICE}"]),
    "over the runs": (volume(path="/runs"), [f"- /runs {TWICE}"]),
    "one volume twice": ({"volumes": volume()["volumes"] + volume(path="/b")["volumes"]}, ["two of volumes have"]),
    "claim": ({"runs": {"claim": "My_Claim"}}, [f"at '/runs/claim': 'My_Claim' {NAME.replace('^', '^$|^')}"]),
    "one writer, many pods": (
        {"runs": {"accessMode": "ReadWriteOnce"}, "nodes": 4},
        ["- runs.accessMode is ReadWriteOnce, but 4 pods write there: use ReadWriteMany, or an existing claim"],
    ),
    "rank": ({"environment": {"RANK": "0"}}, [f"at '/environment/RANK': value must be '{RESERVED}'"]),
    "local rank": ({"environment": {"LOCAL_RANK": "0"}}, [f"at '/environment/LOCAL_RANK': value must be '{RESERVED}'"]),
    "world": ({"environment": {"WORLD_SIZE": "8"}}, [f"at '/environment/WORLD_SIZE': value must be '{RESERVED}'"]),
    "master": ({"environment": {"MASTER_ADDR": "x"}}, [f"at '/environment/MASTER_ADDR': value must be '{RESERVED}'"]),
    "ours": ({"environment": {"TUNEYARD_X": "x"}}, [f"at '/environment/TUNEYARD_X': value must be '{RESERVED}'"]),
    "ours, secretly": (
        {"secrets": {"TUNEYARD_PORT": {"name": "a", "key": "b"}}},
        [f"at '/secrets/TUNEYARD_PORT': value must be '{RESERVED}'"],
    ),
    "no variable": ({"environment": {"A-B": "x"}}, ["at '/environment': additional properties 'A-B' not allowed"]),
    "list as variable": (
        {"environment": {"A": ["x"]}},
        ["at '/environment/A': got array, want boolean or integer or string"],
    ),
    "nccl in environment": (
        {"environment": {"NCCL_DEBUG": "INFO"}},
        ["at '/environment/NCCL_DEBUG': value must be 'given under `nccl`, without its prefix'"],
    ),
    "nccl with prefix": ({"nccl": {"NCCL_DEBUG": "INFO"}}, ["value must be 'named without the prefix NCCL_'"]),
    "token": ({"environment": {"HF_TOKEN": "hf_x"}}, [f"at '/environment/HF_TOKEN': value must be '{SECRET}'"]),
    "key": ({"environment": {"wandb_api_key": "x"}}, [f"at '/environment/wandb_api_key': value must be '{SECRET}'"]),
    "secret's value": ({"secrets": {"HF_TOKEN": "hf_x"}}, ["at '/secrets/HF_TOKEN': got string, want object"]),
    "secret without key": ({"secrets": {"HF_TOKEN": {"name": "x"}}}, ["'/secrets/HF_TOKEN': missing property 'key'"]),
    "twice": (
        {"secrets": {"A": {"name": "a", "key": "b"}}, "environment": {"A": "x"}},
        ["- A stands under environment and under secrets: leave one of them out"],
    ),
    "our labels": ({"podLabels": {"app.kubernetes.io/name": "x"}}, ["value must be 'left to Tuneyard and Kubernetes"]),
    "label": ({"podLabels": {"team": "a b"}}, ["at '/podLabels/team': 'a b' does not match pattern"]),
    "root": ({"securityContext": {"uid": 0}}, ["at '/securityContext/uid': minimum: got 0, want 1"]),
    "privileged": ({"securityContext": {"privileged": True}}, ["additional properties 'privileged' not allowed"]),
    "toleration": ({"tolerations": [{"operator": "Maybe"}]}, ["/operator': value must be one of 'Exists', 'Equal'"]),
    "low port": ({"port": 80}, ["at '/port': minimum: got 80, want 1,024"]),
    "two topologies": (
        {"kueue": {"queue": "q", "topology": {"required": "a", "preferred": "b"}}},
        ["- kueue.topology has both required and preferred: leave one of them empty"],
    ),
    "no queue": ({"kueue": {"priorityClass": "high"}}, ["- kueue.priorityClass and kueue.topology need kueue.queue"]),
    "init without command": ({"init": [{"name": "a"}]}, ["at '/init/0': missing property 'command'"]),
    "init called trainer": (
        {"init": [{"name": "trainer", "command": ["true"]}]},
        ["- the names of the containers under init must differ from each other and from trainer and place"],
    ),
    "a large job": ({"job": "x" * 300_000}, ["at '/job': maxLength: got 300,000, want 262,144"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_in_words(helm: Helm, name: str) -> None:
    values, words = REFUSED[name]
    said = helm.refusal(values)
    for part in words:
        assert part in said
    assert len(said) < 2000


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (
            "9lives",
            '- the release\'s name "9lives" becomes a host name: only small letters, digits and hyphens, a letter',
        ),
        ("a.b", '- the release\'s name "a.b" becomes a host name'),
        ("r" * 41, "- the release's name has 41 characters: with what Kubernetes appends for 1 pods, at most 40 fit"),
    ],
)
def test_a_release_name_that_is_no_host_name_is_refused(helm: Helm, release: str, words: str) -> None:
    assert words in helm.refusal({}, release)


def test_lint_refuses_the_same(helm: Helm) -> None:
    done = helm("lint", CHART, *helm.values({"environment": {"RANK": "0"}}), check=False)
    assert done.returncode != 0 and RESERVED in done.stdout


def test_several_problems_are_told_at_once(helm: Helm) -> None:
    said = helm.refusal({"nodes": 0, "environment": {"RANK": "0", "HF_TOKEN": "x"}, "port": "high"})
    for part in ("'/nodes'", RESERVED, SECRET, "'/port'"):
        assert part in said


def test_a_secret_that_was_given_by_mistake_is_not_repeated(helm: Helm) -> None:
    canary = "hf_canary0123456789"
    for values in ({"environment": {"HF_TOKEN": canary}}, {"secrets": {"HF_TOKEN": canary}}):
        assert canary not in helm.refusal(values)


def test_old_clusters_are_refused(helm: Helm) -> None:
    for version, wanted in (("1.27.9", False), ("1.28.0", True), ("1.33.1-eks-1234", True), ("1.37.0", True)):
        line = ["template", RELEASE, CHART, "--kube-version", version, *helm.values({})]
        assert (helm(*line, check=False).returncode == 0) == wanted
