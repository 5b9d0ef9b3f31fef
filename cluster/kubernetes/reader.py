"""A look into the run directory of a run whose own pods are gone: a pod that lives for the length of one answer.

It is made from the pod template of the run's Job or JobSet, so the chart stays the one source of what a pod of the
run looks like: same image, user, volumes and security, another command, and no GPUs.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.kubernetes.api import Api
from cluster.kubernetes.facts import pod_of
from cluster.kubernetes.names import COMPONENT_LABEL, INSTANCE_LABEL, TRAINER

_SECONDS = 90
_POLL_SECONDS = 0.3
_RESOURCES = {"cpu": "100m", "memory": "256Mi"}
_KEPT = ("image", "imagePullPolicy", "volumeMounts", "securityContext", "env", "workingDir")
_ALL_LINES = 10**6
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
        return api.pod_log(name, TRAINER, _ALL_LINES) if _has_ended(api, name) else ""
    finally:
        api.delete_pod(name)


def reader_pod(workload: Mapping[str, Any], command: Sequence[str], suffix: str) -> dict[str, Any]:
    """The pod, out of the run's own template."""
    release = workload["metadata"]["labels"][INSTANCE_LABEL]
    template = _template(workload)
    spec = {name: one for name, one in copy.deepcopy(template["spec"]).items() if name not in _LEFT_OUT}
    trainer = next(one for one in spec["containers"] if one["name"] == TRAINER)
    container = {name: trainer[name] for name in _KEPT if name in trainer}
    container |= {
        "name": TRAINER,
        "command": list(command),
        "resources": {"limits": _RESOURCES, "requests": _RESOURCES},
    }
    container["env"] = [one for one in container.get("env", []) if "valueFrom" not in one]
    spec |= {"containers": [container], "initContainers": [], "restartPolicy": "Never"}
    spec |= {"activeDeadlineSeconds": _SECONDS, "terminationGracePeriodSeconds": 0}
    owner = {name: workload[name] for name in ("apiVersion", "kind")}
    owner |= {name: workload["metadata"][name] for name in ("name", "uid")}
    labels = {INSTANCE_LABEL: release, COMPONENT_LABEL: "reader"}
    metadata = {"name": f"{release}-read-{suffix}", "labels": labels, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = workload["spec"]
    found: Mapping[str, Any] = (
        spec["replicatedJobs"][0]["template"]["spec"] if workload["kind"] == "JobSet" else spec
    )["template"]
    return found


def _has_ended(api: Api, name: str) -> bool:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        found = api.read("pod", name)
        phase = pod_of(found).phase if found else "Failed"
        if phase in ("Succeeded", "Failed"):
            return phase == "Succeeded"
        time.sleep(_POLL_SECONDS)
    return False
