"""Objects that the tests of the testbed make: pods and jobs as restricted Pod Security wants them."""

from typing import Any

STRICT = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
PERSON = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}


def pod_spec(image: str, *command: str, gpus: int = 0, **more: Any) -> dict[str, Any]:
    """A pod of one container that sees the claim `runs` in /runs."""
    container = {"name": "main", "image": image, "command": list(command), "securityContext": STRICT}
    container["volumeMounts"] = [{"name": name, "mountPath": path} for name, path in _MOUNTS.items()]
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    defaults = {"restartPolicy": "Never", "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 2}
    return {**defaults, "securityContext": PERSON, "containers": [container], "volumes": _VOLUMES, **more}


def pod(name: str, image: str, *command: str, **more: Any) -> dict[str, Any]:
    """A pod by itself."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(image, *command, **more)}


def gang(name: str, image: str, size: int, *command: str) -> list[dict[str, Any]]:
    """Pods on nodes of their own that know their number and find each other as `<name>-<number>.<name>`."""
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    spread["labelSelector"] = {"matchLabels": {"job-name": name}}
    template = {"spec": pod_spec(image, *command, subdomain=name, topologySpreadConstraints=[spread])}
    job = {"completionMode": "Indexed", "completions": size, "parallelism": size, "backoffLimit": 0}
    names = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": names},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {**job, "template": template}},
    ]


_MOUNTS = {"runs": "/runs", "tmp": "/tmp", "shm": "/dev/shm"}
_VOLUMES = [
    {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "shm", "emptyDir": {"medium": "Memory"}},
]
