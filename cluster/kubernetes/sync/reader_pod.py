"""A look into the run directory of a run whose own pods are gone: a pod that lives for the length of one answer.

It is made from the pod template of the run's Job or JobSet, so the chart stays the one source of what a pod of the
run looks like: same image, user, volumes and security, another command, and no GPUs.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.client.api import Api
from cluster.kubernetes.names import COMPONENT_LABEL, INSTANCE_LABEL, TRAINER
from cluster.kubernetes.status.objects import pod_of

_SECONDS = 90
_STAYING_SECONDS = 12 * 3600
_POLL_SECONDS = 0.3
_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
_LIMITS = {"cpu": "1", "memory": "256Mi"}
_KEPT = ("image", "imagePullPolicy", "volumeMounts", "securityContext", "env", "workingDir")
_ALL_LINES = 10**6
_OF_THE_RELEASE = {"configMap", "secret", "projected"}
"""Kinds of volumes that may be gone while the claim is not, and that nothing is read from."""
_LEFT_OUT = ("resources", "topologySpreadConstraints", "schedulingGates", "hostname", "subdomain")


def ask(api: Api, workload: Mapping[str, Any], command: Sequence[str]) -> str:
    """What the command prints in such a pod; empty when the pod does not come to an end in time.

    Raises:
        KubernetesError: this user may not make pods, or the API refuses this one.
    """
    pod = reader_pod(workload, command, secrets.token_hex(3))
    name = pod["metadata"]["name"]
    api.create_pod(pod)
    try:
        return api.pod_log(name, TRAINER, _ALL_LINES) if _comes_to(api, name, "Succeeded") else ""
    finally:
        api.delete_pod(name)


@contextlib.contextmanager
def staying(api: Api, workload: Mapping[str, Any]) -> Iterator[str]:
    """The name of such a pod in which commands can be run. It is removed at the end, and ends by itself in half a day.

    Raises:
        KubernetesError: this user may not make pods, or the API refuses this one.
        ClusterError: it does not start.
    """
    command = ["python", "-c", f"import time; time.sleep({_STAYING_SECONDS})"]
    pod = reader_pod(workload, command, secrets.token_hex(3), _STAYING_SECONDS)
    name = pod["metadata"]["name"]
    api.create_pod(pod)
    try:
        if not _comes_to(api, name, "Running"):
            raise ClusterError(f"pod {name} did not start within {_SECONDS} s", "`kubectl describe pod` tells why")
        yield name
    finally:
        api.delete_pod(name)


def reader_pod(
    workload: Mapping[str, Any], command: Sequence[str], suffix: str, seconds: int = _SECONDS
) -> dict[str, Any]:
    """The pod, out of the run's own template."""
    release = workload["metadata"]["labels"][INSTANCE_LABEL]
    template = _template(workload)
    spec = {name: one for name, one in copy.deepcopy(template["spec"]).items() if name not in _LEFT_OUT}
    trainer = next(one for one in spec["containers"] if one["name"] == TRAINER)
    container = {name: trainer[name] for name in _KEPT if name in trainer}
    container |= {
        "name": TRAINER,
        "command": list(command),
        "resources": {"limits": _LIMITS, "requests": _REQUESTS},
    }
    container["env"] = [one for one in container.get("env", []) if "valueFrom" not in one]
    spec["volumes"] = [one for one in spec.get("volumes", []) if not _OF_THE_RELEASE & one.keys()]
    kept = {one["name"] for one in spec["volumes"]}
    container["volumeMounts"] = [one for one in container.get("volumeMounts", []) if one["name"] in kept]
    if "uid" not in workload["metadata"]:
        del spec["serviceAccountName"]  # which may have gone with the release
    spec |= {"containers": [container], "initContainers": [], "restartPolicy": "Never"}
    spec |= {"activeDeadlineSeconds": seconds, "terminationGracePeriodSeconds": 0}
    labels = {INSTANCE_LABEL: release, COMPONENT_LABEL: "reader"}
    metadata = {"name": f"{release}-read-{suffix}", "labels": labels, "ownerReferences": _owners(workload)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _owners(workload: Mapping[str, Any]) -> list[dict[str, str]]:
    """The workload, with which the pod goes; nobody where that is gone already."""
    if "uid" not in workload["metadata"]:
        return []
    named = {name: workload["metadata"][name] for name in ("name", "uid")}
    return [{name: workload[name] for name in ("apiVersion", "kind")} | named]


def _template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = workload["spec"]
    found: Mapping[str, Any] = (
        spec["replicatedJobs"][0]["template"]["spec"] if workload["kind"] == "JobSet" else spec
    )["template"]
    return found


def _comes_to(api: Api, name: str, phase: str) -> bool:
    """Whether a pod reaches this phase in time, without failing before."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        found = api.read("pod", name)
        now = pod_of(found).phase if found else "Failed"
        if now in (phase, "Failed"):
            return now == phase
        time.sleep(_POLL_SECONDS)
    return False
