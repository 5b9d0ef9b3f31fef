"""A place for one test in a cluster: a namespace under restricted Pod Security with a claim for runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.testbed.cluster import CLAIM, Cluster
from tests.cluster.kubernetes.testbed.host import TestbedError, wait_until

_SECONDS = 60.0


class Namespace:
    """A namespace with the claim `runs`."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.claim, self.image = CLAIM, cluster.image

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> str:
        """The output of kubectl as administrator, in this namespace."""
        return self.cluster.kubectl(f"--namespace={self.name}", *arguments, text=text)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get` gives here, as data."""
        return self.cluster.get(f"--namespace={self.name}", *arguments)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects that are given as data."""
        self.cluster.apply(*objects, namespace=self.name)

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """The pods, as data."""
        return self.get("pods", f"--selector={selector}")["items"]

    def create(self) -> None:
        """Makes the namespace and the claim; returns when pods can be made in it."""
        strict = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.cluster.make_volume(self.name)
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": strict}},
            self.cluster.claim(self.name),
        )
        wait_until(self._is_settled, _SECONDS, f"{self.name} gets no service account")

    def delete(self) -> None:
        """Ends all pods, also those of nodes that are gone; the namespace itself goes some seconds later."""
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")
        self.kubectl("delete", "jobs", "--all", "--wait=false")  # which keep pods until they have replaced them
        self.kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
        wait_until(lambda: not self.pods(), _SECONDS, lambda: f"{self.name}: pods stay: {self.kubectl('get', 'pods')}")
        self.cluster.remove_volume(self.name)

    def _is_settled(self) -> bool:
        try:  # pods are refused as long as there is none
            self.get("serviceaccount", "default")
        except TestbedError:
            return False
        return True
