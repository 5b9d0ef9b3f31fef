"""What the API says when it refuses, with what to do; and the Role, which is the rights that are checked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ClusterError
from cluster.kubernetes.client import permissions
from cluster.kubernetes.client.errors import refusal, unreachable
from cluster.kubernetes.client.helm import Helm, HelmError, chart_folder
from cluster.kubernetes.sync.reader_pod import reader_pod

FORBIDDEN = (
    'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group "batch" '
    'in the namespace "training"'
)
ANSWERS = [
    (403, FORBIDDEN, "forbidden", "you may not create jobs.batch in namespace training"),
    (403, 'nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope', "forbidden",
     "you may not list nodes, which belongs to no namespace"),
    (403, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1', "quota", "exceeded quota"),
    (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', "pod_security", "violates PodSecurity"),
    (403, 'pods "x" is forbidden: no PriorityClass with name y was found', "refused", "no PriorityClass"),
    (401, "Unauthorized", "unauthorised", "Unauthorized"),
    (404, 'namespaces "x" not found', "not_found", 'namespaces "x" not found'),
    (409, 'jobs.batch "x" already exists', "exists", "already exists"),
    (410, "too old resource version", "gone", "too old"),
    (422, "Job is invalid: spec.completions: Invalid value", "invalid", "spec.completions"),
    (429, "too many requests", "busy", "too many"),
    (503, "etcdserver: leader changed", "busy", "leader changed"),
    (418, "I'm a teapot", "other", "teapot"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "kind", "words"), ANSWERS, ids=[str(one[:2])[:40] for one in ANSWERS])
def test_answers(status: int, message: str, kind: str, words: str) -> None:
    for body in (json.dumps({"kind": "Status", "message": message}), message):
        found = refusal("make Job x", status, body)
        assert found.kind == kind and found.remedy
        assert found.message.startswith("make Job x: ") and words in found.message


def test_an_api_server_that_is_away_is_told_with_its_context() -> None:
    found = unreachable("list pods", "prod", "Connection refused\n  in many\n lines")
    assert "API server of prod does not answer: Connection refused in many lines" in found.message


def role() -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((Path(__file__).parents[4] / "helm" / "rbac.yaml").read_text())
    return next(one for one in documents if one["kind"] == "Role")["rules"]


def test_the_role_is_what_the_backend_checks_for_and_nothing_more() -> None:
    given = {
        (verb, resource, group) for rule in role() for group in rule["apiGroups"] for resource in rule["resources"]
        for verb in rule["verbs"]
    }  # fmt: skip
    whole = [
        (one, f"{one.resource}/{one.subresource}".rstrip("/")) for one in (*permissions.NEEDED, *permissions.OPTIONAL)
    ]
    assert given == {(one.verb, resource, one.group) for one, resource in whole}
    assert not [one for one in given if "*" in one]


def test_the_docs_hold_the_role() -> None:
    page = (Path(__file__).parents[4] / "docs" / "kubernetes.md").read_text()
    block = page.split("```yaml\n# helm/rbac.yaml\n")[1].split("```")[0]
    assert next(iter(yaml.safe_load_all(block)))["rules"] == role()


def test_a_helm_that_is_absent_or_old_is_told_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(HelmError, match="Helm is not here") as absent:
        Helm(str(tmp_path / "helm")).version()
    assert "install Helm 4" in absent.value.remedy
    old = tmp_path / "helm"
    old.write_text("#!/bin/sh\necho v3.18.4+gabc\n")
    old.chmod(0o755)
    with pytest.raises(HelmError, match=r"v3\.18\.4\+gabc, and 4 is needed"):
        Helm(str(old)).version()


def test_values_never_stand_in_arguments_and_words_of_helm_are_kept(tmp_path: Path) -> None:
    fake = tmp_path / "helm"
    fake.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/values\necho "Error: no way" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    with pytest.raises(HelmError, match="helm install: no way"):
        Helm(str(fake), "ctx", "ns").install("run-1", '{"environment": {"A": "hidden"}}')
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.split()[:2] == ["install", "run-1"] and "hidden" not in arguments
    assert "--kube-context ctx --namespace ns" in arguments and "hidden" in (tmp_path / "values").read_text()


def test_a_chart_that_is_not_there(tmp_path: Path) -> None:
    assert (chart_folder() / "values.schema.json").is_file()
    with pytest.raises(ClusterError, match="no chart in"):
        chart_folder(str(tmp_path))


def test_a_reader_is_the_runs_own_pod_with_another_command_and_no_gpu() -> None:
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "h", "key": "k"}}}
    container = {"name": "trainer", "image": "t:1", "command": ["python"], "env": [{"name": "A", "value": "1"}, token]}
    container |= {"resources": {"limits": {"nvidia.com/gpu": 8}}, "securityContext": {"readOnlyRootFilesystem": True}}
    spec = {"containers": [container], "initContainers": [{"name": "place"}], "securityContext": {"runAsUser": 7}}
    metadata = {"name": "run-1-abcde", "uid": "u", "labels": {"app.kubernetes.io/instance": "run-1"}}
    inner = {"template": {"spec": spec}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": inner}
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata}
    jobset["spec"] = {"replicatedJobs": [{"template": {"spec": inner}}]}
    for workload in (job, jobset):
        made = reader_pod(workload, ["python", "-c", "x"], "q")
        (only,) = made["spec"]["containers"]
        assert only["command"] == ["python", "-c", "x"] and "nvidia.com/gpu" not in json.dumps(only)
        assert only["env"] == [{"name": "A", "value": "1"}] and made["spec"]["initContainers"] == []
        assert made["spec"]["securityContext"] == {"runAsUser": 7} and only["securityContext"]
        assert made["metadata"]["ownerReferences"][0]["kind"] == workload["kind"]
        assert made["metadata"]["labels"]["app.kubernetes.io/component"] == "reader"
    assert container["command"] == ["python"]
