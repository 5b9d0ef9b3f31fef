"""The value sets that the chart is tried with, and what renders and reads them."""

from __future__ import annotations

import copy
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[4] / "helm" / "tuneyard"
NAMESPACE = "training"
RELEASE = "my-run"
DIGEST = "registry.example.com/me/tuneyard@sha256:" + "0123456789abcdef" * 4
MINIMAL: dict[str, Any] = {"image": "registry.example.com/me/tuneyard:0.2.0", "job": "name: my-run\n"}
_TERM = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
_PROXY = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 3128, "protocol": "TCP"}]}

VALUES: dict[str, dict[str, Any]] = {
    "least": {},
    "digest": {"image": DIGEST, "imagePullPolicy": "IfNotPresent", "imagePullSecrets": ["registry"]},
    "cpu-only": {"resources": {"gpus": 0, "cpu": "500m", "memory": "1Gi"}, "sharedMemory": "256Mi"},
    "shm-unlimited": {"sharedMemory": ""},
    "planned": {"plan": '{"launch": {"grace_seconds": 60}}', "run": {"name": "Night_2.b", "submitted": 1763750000}},
    "two-nodes": {"nodes": 2, "graceSeconds": 60, "terminationMarginSeconds": 20},
    "many-nodes": {"nodes": 1000, "spread": False},
    "jobset": {"workload": {"kind": "jobset"}, "nodes": 4, "backoffLimit": 3},
    "jobset-many-nodes": {"workload": {"kind": "jobset"}, "nodes": 100},
    "ttl": {"workload": {"ttlSecondsAfterFinished": 3600}},
    "ttl-zero": {"workload": {"ttlSecondsAfterFinished": 0}},
    "jobset-ttl-walltime": {"workload": {"kind": "jobset", "ttlSecondsAfterFinished": 60}, "walltimeSeconds": 86400},
    "walltime": {"walltimeSeconds": 14400, "backoffLimit": 0},
    "claim": {"runs": {"claim": "shared-runs", "path": "/shared/runs"}},
    "claim-made": {"runs": {"size": "1Ti", "storageClass": "nfs"}},
    "one-writer": {"runs": {"accessMode": "ReadWriteOnce"}},
    "volumes": {
        "volumes": [
            {"name": "models", "claim": "models", "path": "/models", "readOnly": True},
            {"name": "data", "claim": "team-data", "path": "/data", "subPath": "chat/2026"},
            {"name": "more", "claim": "team-data", "path": "/more"},
        ]
    },
    "scratch": {"scratch": {"enabled": True, "sizeLimit": "200Gi", "path": "/local"}},
    "scratch-unlimited": {"scratch": {"enabled": True}},
    "kueue-queue": {"kueue": {"queue": "team"}},
    "kueue": {"kueue": {"queue": "team", "priorityClass": "high"}, "nodes": 2},
    "kueue-rack": {"kueue": {"queue": "team", "topology": {"required": "cloud.example.com/rack"}}, "nodes": 2},
    "jobset-kueue-block": {
        "workload": {"kind": "jobset"},
        "kueue": {"queue": "team", "topology": {"preferred": "cloud.example.com/block"}},
        "nodes": 2,
    },
    "priority": {"priorityClass": "training", "schedulerName": "other", "runtimeClassName": "nvidia"},
    "placement": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "excludeNodes": ["node-7", "node-9.example.com"],
        "unreachableSeconds": 0,
    },
    "exclude-in-every-alternative": {
        "excludeNodes": ["node-7"],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM, {"matchFields": []}]},
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _TERM}],
            }
        },
    },
    "environment": {
        "environment": {"OMP_NUM_THREADS": 4, "HF_HUB_OFFLINE": True, "HF_HOME": "/models/hub", "NOTE": "$(HOME) $$ $"},
        "nccl": {"SOCKET_IFNAME": "eth0", "DEBUG": "INFO", "IB_TIMEOUT": 22},
    },
    "secrets": {"secrets": {"HF_TOKEN": {"name": "hub", "key": "token"}, "WANDB_API_KEY": {"name": "wb", "key": "k"}}},
    "rdma": {
        "rdma": {"resource": "rdma/hca_shared_devices_a", "count": 8},
        "resources": {"gpus": 8, "extra": {"hugepages-2Mi": "1Gi"}, "ephemeralStorage": "100Gi"},
        "nodes": 2,
    },
    "rdma-lock": {"rdma": {"resource": "rdma/hca", "ipcLock": True}},
    "host-network": {"hostNetwork": True, "nodes": 2, "port": 23456},
    "multus": {"networks": '[{"name": "ib0"}, {"name": "ib1"}]', "nodes": 2},
    "tensorboard": {"tensorboard": {"enabled": True, "image": DIGEST, "port": 8080}},
    "tensorboard-claim": {"tensorboard": {"enabled": True}, "runs": {"claim": "shared"}, "imagePullSecrets": ["r"]},
    "init": {"init": [{"name": "fetch", "command": ["sh", "-c", "echo 'a \"b\"' > /tmp/x"]}]},
    "labels": {
        "podLabels": {"team": "nlp", "example.com/cost": "42"},
        "podAnnotations": {"example.com/note": "a: b #c"},
    },
    "identity": {"securityContext": {"uid": 65532, "gid": 65532, "fsGroup": 2000}},
    "account": {"serviceAccount": {"create": False, "name": "trainer"}, "networkPolicy": {"enabled": False}},
    "account-annotated": {"serviceAccount": {"annotations": {"example.com/role": "arn:1"}}},
    "account-default": {"serviceAccount": {"create": False}},
    "closed": {"networkPolicy": {"hub": False}},
    "prepare": {"prepare": {"enabled": True}, "plan": "{}"},
    "prepare-elsewhere": {
        "prepare": {
            **{"enabled": True, "cpus": 16, "memory": "64Gi", "walltimeSeconds": 3600, "priorityClass": "low"},
            **{"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "cpu", "operator": "Exists"}]},
            **{"serviceAccount": "opener", "apiServer": {"cidr": "10.96.0.1/32", "ports": [443]}},
        },
        "plan": "{}",
        "networkPolicy": {"hub": False},
    },
    "prepare-kueue": {"prepare": {"enabled": True, "queue": "cpus"}, "kueue": {"queue": "team"}, "plan": "{}"},
    "prepare-jobset": {
        "prepare": {"enabled": True},
        "plan": "{}",
        "workload": {"kind": "jobset", "ttlSecondsAfterFinished": 60},
    },
    "proxy": {"networkPolicy": {"hub": False, "egress": [_PROXY]}, "tensorboard": {"enabled": True}},
}

NOT_RESTRICTED = {"host-network", "rdma-lock"}
"""Value sets that leave the restricted profile, which the documentation says of them."""

Object = dict[str, Any]
_RENDERED: dict[str, list[Object]] = {}


@dataclass(frozen=True)
class Helm:
    """The command line, with values as files. `folder` keeps its caches and values away from the user's."""

    binary: Path
    folder: Path
    environment: Mapping[str, str] | None = None

    def __call__(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        own = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        line = [str(self.binary), *map(str, arguments)]
        environment = {**(self.environment or os.environ), **own}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(line)}\n{done.stdout}{done.stderr}"
        return done

    def values(self, values: Mapping[str, Any]) -> list[str]:
        """`--values FILE` with these. Not as JSON: Helm reads YAML, to which half a surrogate pair is no character."""
        path = self.folder / f"{uuid.uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump({**MINIMAL, **values}), encoding="utf-8")
        return ["--values", str(path)]

    def render(self, values: Mapping[str, Any], release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
        """All objects, the test's pod included."""
        key = yaml.safe_dump([values, release, namespace])
        if key not in _RENDERED:
            done = self("template", release, CHART, "--namespace", namespace, *self.values(values))
            _RENDERED[key] = [found for found in yaml.safe_load_all(done.stdout) if found]
        return copy.deepcopy(_RENDERED[key])

    def refusal(self, values: Mapping[str, Any], release: str = RELEASE) -> str:
        """What the user reads; fails if it is rendered."""
        done = self("template", release, CHART, *self.values(values), check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of this kind (and name)."""
    found = [item for item in objects if item["kind"] == kind and name in (None, item["metadata"]["name"])]
    assert len(found) == 1, [(item["kind"], item["metadata"]["name"]) for item in objects]
    return found[0]


def own_workload(objects: list[Object]) -> Object:
    """The run's Job or JobSet; of the Job that tokenises, that one where it is all that is given."""
    found = [item for item in objects if item["kind"] in ("Job", "JobSet")]
    return next((item for item in found if not is_preparing(item)), found[0])


def is_preparing(item: Object) -> bool:
    """Whether this is the Job that tokenises."""
    return item["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "prepare"


def job_spec(objects: list[Object]) -> Object:
    """The spec of the Job, also of that within a JobSet."""
    workload = own_workload(objects)
    if workload["kind"] == "Job":
        return workload["spec"]
    return workload["spec"]["replicatedJobs"][0]["template"]["spec"]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The spec of every pod that the objects make."""
    for item in objects:
        if item["kind"] == "Pod":
            yield item["metadata"]["name"], item["spec"]
        elif item["kind"] in ("Job", "JobSet"):
            yield item["metadata"]["name"], job_spec([item])["template"]["spec"]
        elif item["kind"] == "Deployment":
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def trainer(objects: list[Object]) -> Object:
    """The container that trains."""
    return job_spec(objects)["template"]["spec"]["containers"][0]


def environment(container: Object) -> dict[str, Any]:
    """Its variables as Kubernetes hands them over; references stay as they are given."""
    found: dict[str, Any] = {}
    for item in container["env"]:
        assert item["name"] not in found, f"{item['name']} is set twice"
        found[item["name"]] = expand(item["value"], found) if "value" in item else item["valueFrom"]
    return found


def expand(text: str, known: Mapping[str, Any]) -> str:
    """What Kubernetes makes of a value: `$$` is a dollar, `$(NAME)` that variable if it stands before."""
    out, rest = "", text
    while "$" in rest:
        before, _, rest = rest.partition("$")
        out += before
        if rest.startswith("$"):
            out, rest = out + "$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            name, _, rest = rest[1:].partition(")")
            out += str(known[name]) if name in known else f"$({name})"
        else:
            out += "$"
    return out + rest
