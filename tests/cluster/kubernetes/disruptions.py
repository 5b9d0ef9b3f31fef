"""What happens to a run's pods and nodes, done as the cluster, its administrator or bad luck does it."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubernetes_runs import until
from pods import pod_spec

from tests.cluster.kubernetes.testbed import Namespace

INDEX = "batch.kubernetes.io/job-completion-index"
_PREEMPTOR = "urgent"


class Pods:
    """The pods of one run, by their posts."""

    def __init__(self, namespace: Namespace, release: str) -> None:
        self.namespace, self.release = namespace, release

    def at(self, index: int) -> dict[str, Any]:
        """The pod that has a post, and is not on its way out."""
        return next(iter(self.alive(index)))

    def alive(self, index: int) -> list[dict[str, Any]]:
        found = self.namespace.pods(f"app.kubernetes.io/instance={self.release},{INDEX}={index}")
        return [
            one
            for one in found
            if "deletionTimestamp" not in one["metadata"] and one["status"]["phase"] in ("Pending", "Running")
        ]

    def node_of(self, index: int) -> str:
        return self.at(index)["spec"]["nodeName"]

    def evict(self, index: int) -> None:
        """Through the Eviction API, as drains and descheduling do it."""
        name = self.at(index)["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{name}/eviction"
        wish = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        self.namespace.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(wish))

    def left(self) -> list[str]:
        """What is there of the release, Helm's own memory of it included."""
        own = f"app.kubernetes.io/instance={self.release}"
        kinds = "jobs,pods,services,configmaps,secrets,serviceaccounts,networkpolicies,deployments"
        found = [*self.namespace.get(kinds, f"--selector={own}")["items"]]
        found += self.namespace.get("secrets", f"--selector=owner=helm,name={self.release}")["items"]
        return [f"{one['kind']} {one['metadata']['name']}" for one in found]

    def kill_rank(self, run_dir: Path, attempt: int, rank: int) -> None:
        """SIGKILL to a training rank, within its pod."""
        pid = (run_dir / "logs" / f"attempt-{attempt:03d}" / f"rank-{rank:05d}.pid").read_text().strip()
        command = ("python", "-c", f"import os; os.kill({int(pid)}, {int(signal.SIGKILL)})")
        self.namespace.kubectl("exec", self.at(rank)["metadata"]["name"], "-c", "trainer", "--", *command)

    def kill_first_process(self, index: int) -> None:
        """SIGKILL to the first process of a pod, from outside: as the kernel does it for want of memory."""
        mark = f"TUNEYARD_POD_UID={self.at(index)['metadata']['uid']}".encode()
        os.kill(next(pid for pid in _first_processes() if mark in _read(pid, "environ").split(b"\0")), signal.SIGKILL)


def _first_processes() -> Iterator[int]:
    """Pod wrappers of this machine that are the first process of their container, by their numbers here."""
    for pid in (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal()):
        words = _read(pid, "cmdline").split(b"\0")
        numbers = next((line for line in _read(pid, "status").splitlines() if line.startswith(b"NSpid:")), b"")
        if b"cluster.kubernetes.pod" in words and numbers.split()[-1:] == [b"1"]:
            yield pid


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


@contextlib.contextmanager
def cordoned(namespace: Namespace, node: str) -> Iterator[None]:
    """Nothing new comes to a node meanwhile."""
    namespace.cluster.kubectl("cordon", node)
    try:
        yield
    finally:
        namespace.cluster.kubectl("uncordon", node)


def drain(namespace: Namespace, node: str) -> None:
    """As an administrator empties a node for maintenance; the node takes pods again when he says so."""
    namespace.cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")


@contextlib.contextmanager
def preempted(namespace: Namespace, node: str) -> Iterator[None]:
    """A pod of a higher priority needs nearly all of a node, gets it, and leaves again."""
    name = f"{_PREEMPTOR}-{namespace.name}"
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
    namespace.apply({**priority, "value": 1000, "preemptionPolicy": "PreemptLowerPriority"})
    cores = int(namespace.cluster.get("node", node)["status"]["allocatable"]["cpu"])
    spec = pod_spec(namespace.image, "sleep", "600", nodeSelector={"kubernetes.io/hostname": node})
    spec["containers"][0]["resources"] = {"requests": {"cpu": f"{cores - 0.5:.1f}"}}
    named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _PREEMPTOR}}
    try:
        namespace.apply({**named, "spec": {**spec, "priorityClassName": name}})
        until(lambda: namespace.get("pod", _PREEMPTOR)["status"]["phase"] == "Running", "the preemptor to run")
        yield
        namespace.kubectl("delete", "pod", _PREEMPTOR, "--grace-period=1")
    finally:
        namespace.cluster.kubectl("delete", "priorityclass", name)


class Stopwatch:
    """Seconds from what was done to what came of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = round(time.monotonic() - began, 1)
