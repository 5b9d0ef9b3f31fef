"""From a plan to the values of the chart. Pure: what a profile says, and what the plan decided, and nothing else.

Values reach Helm as JSON, which is YAML: no text in them can become anything but text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.submit.profile import Identity, quantity
from rundir.plan import LaunchSpec, Plan

AGENT_SECONDS = 30
"""What the agent and the pod's own first process need beyond the grace period."""
_DEFAULT_MEMORY = "8Gi"
_SCRATCH = "/scratch"
_RAW = re.compile(r"[^\n -~]")
_RENAMED = {
    "image": "image",
    "image_pull_policy": "imagePullPolicy",
    "image_pull_secrets": "imagePullSecrets",
    "backoff_limit": "backoffLimit",
    "priority_class": "priorityClass",
    "node_selector": "nodeSelector",
    "tolerations": "tolerations",
    "unreachable_seconds": "unreachableSeconds",
    "environment": "environment",
    "secrets": "secrets",
    "rdma": "rdma",
    "host_network": "hostNetwork",
    "network_annotation": "networks",
    "runtime_class": "runtimeClassName",
    "scheduler": "schedulerName",
    "pod_labels": "podLabels",
    "pod_annotations": "podAnnotations",
}
"""Settings of a profile that are values of the chart, under another name."""
_PREPARE_RENAMED = {
    "cpus": "cpus",
    "memory": "memory",
    "node_selector": "nodeSelector",
    "tolerations": "tolerations",
    "priority_class": "priorityClass",
    "queue": "queue",
    "walltime_seconds": "walltimeSeconds",
    "service_account": "serviceAccount",
}
"""The same, of its `prepare`."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is known only when a run is submitted."""

    run_name: str
    submitted: int
    job_text: str
    plan_text: str
    workload: str
    exclude: Sequence[str] = ()
    prepares: bool = False
    """Whether a Job of its own tokenises first."""


def chart_values(plan: Plan, submission: Submission) -> dict[str, Any]:
    """Everything that the chart is told about a run."""
    launch = plan.launch
    launch.require_startable()
    site = site_of(plan)
    values: dict[str, Any] = {theirs: site[ours] for ours, theirs in _RENAMED.items() if ours in site}
    values |= {"run": {"name": submission.run_name, "submitted": submission.submitted}}
    values |= {"job": submission.job_text, "plan": submission.plan_text, "nodes": launch.nodes}
    values |= {"graceSeconds": round(launch.grace_seconds), "terminationMarginSeconds": AGENT_SECONDS}
    values |= {"resources": _resources(launch, site), "runs": _runs(site), "volumes": list(_volumes(site))}
    values |= {"workload": _workload(submission.workload, site), "excludeNodes": list(submission.exclude)}
    values |= {"securityContext": _identity(site), "serviceAccount": _account(site)}
    values |= {"walltimeSeconds": int(launch.walltime_seconds or 0)}
    values |= {"networkPolicy": {"enabled": bool(site.get("network_policy", False))}}
    values |= {"tensorboard": {"enabled": bool(site.get("tensorboard", False))}}
    values |= {"nccl": {name.removeprefix("NCCL_"): value for name, value in site.get("nccl", {}).items()}}
    if shared := site.get("shared_memory"):
        values["sharedMemory"] = shared
    if site.get("scratch"):
        values["scratch"] = {"enabled": True, "sizeLimit": site["scratch"], "path": _SCRATCH}
    if kueue := site.get("kueue"):
        values["kueue"] = _kueue(kueue)
    if submission.prepares:
        values["prepare"] = _prepare(site["prepare"])
    return values


def site_of(plan: Plan) -> dict[str, Any]:
    """The profile's part of a plan; ClusterError when the plan was made for another place."""
    site = plan.launch.kubernetes
    if not site.get("image"):
        raise ClusterError("plan.json: launch.kubernetes names no image", "plan the job with a Kubernetes profile")
    return site


def as_text(values: Mapping[str, Any]) -> str:
    """The values as Helm reads them: YAML, which takes JSON but for its pairs of surrogates and its raw characters."""
    return _RAW.sub(_escaped, json.dumps(values, indent=1, ensure_ascii=False)) + "\n"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _resources(launch: LaunchSpec, site: Mapping[str, Any]) -> dict[str, Any]:
    ranks, on_gpus = launch.ranks_per_node, launch.device != "cpu"
    found: dict[str, Any] = {"gpus": ranks if on_gpus else 0, "cpu": ranks * (site.get("cpus_per_gpu") or 1)}
    if on_gpus:
        found["gpuResource"] = site.get("gpu_resource")
    found["memory"] = multiplied(site.get("memory_per_gpu") or _DEFAULT_MEMORY, ranks)
    return found


def multiplied(size: str, count: int) -> str:
    """A size so many times, in the same unit where that stays a whole number."""
    found = re.fullmatch(r"(\d+)([kKMGTPE]i?)?", size)
    return f"{int(found[1]) * count}{found[2] or ''}" if found else str(quantity(size) * count)


def _runs(site: Mapping[str, Any]) -> dict[str, Any]:
    runs = site.get("runs") or {}
    found = {"path": runs.get("path", "/runs")}
    if runs.get("claim"):
        return found | {"claim": runs["claim"]}
    return found | {"size": runs.get("size"), "storageClass": runs.get("storage_class", "")}


def _volumes(site: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for one in site.get("volumes") or ():
        found = {name: one[name] for name in ("name", "claim", "path")}
        found["readOnly"] = bool(one.get("read_only", True))
        yield found | ({"subPath": one["sub_path"]} if one.get("sub_path") else {})


def _workload(kind: str, site: Mapping[str, Any]) -> dict[str, Any]:
    keep = site.get("keep_seconds")
    return {"kind": kind} | ({} if keep is None else {"ttlSecondsAfterFinished": keep})


def _identity(site: Mapping[str, Any]) -> dict[str, Any]:
    default = Identity()
    given = site.get("identity") or {}
    uid, gid = given.get("uid", default.uid), given.get("gid", default.gid)
    return {"uid": uid, "gid": gid, "fsGroup": given.get("fs_group", gid)}


def _prepare(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"enabled": True} | {theirs: asked[ours] for ours, theirs in _PREPARE_RENAMED.items() if ours in asked}


def _account(site: Mapping[str, Any]) -> dict[str, Any]:
    name = site.get("service_account")
    return {"create": False, "name": name} if name else {"create": True}


def _kueue(kueue: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"queue": "queue", "priority_class": "priorityClass", "topology": "topology"}
    return {theirs: kueue[ours] for ours, theirs in renamed.items() if kueue.get(ours)}
