"""A place for one test in a cluster: a namespace under restricted Pod Security with a volume for runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.kubernetes.testbed.config import TRAINER_IMAGE
from tests.cluster.kubernetes.testbed.host import TestbedError, wait_until

if TYPE_CHECKING:
    from tests.cluster.kubernetes.testbed.bed import Testbed

CLAIM = "runs"
_SECONDS = 60.0


class Namespace:
    """A namespace of the testbed. The claim `runs` is the folder `runs` of this machine."""

    def __init__(self, bed: Testbed, name: str) -> None:
        self.bed, self.name = bed, name
        self.claim, self.image = CLAIM, TRAINER_IMAGE

    @property
    def runs(self) -> Path:
        """What pods see in the claim."""
        return self.bed.shared_storage / self.name

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> str:
        """The output of kubectl as administrator, in this namespace."""
        return self.bed.kubectl(f"--namespace={self.name}", *arguments, text=text)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get` gives here, as data."""
        return self.bed.get(f"--namespace={self.name}", *arguments)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects that are given as data."""
        self.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """The pods, as data."""
        return self.get("pods", f"--selector={selector}")["items"]

    def create(self) -> None:
        """Makes the namespace, its volume and the claim on it."""
        self.runs.mkdir()
        self.runs.chmod(0o777)
        strict = {"pod-security.kubernetes.io/enforce": "restricted"}
        place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": strict}}
        self.bed.apply(place, self._volume())
        self.apply(_claim(self._volume_name))
        wait_until(self._is_settled, _SECONDS, f"{self.name}: the claim {CLAIM} is not bound")

    def delete(self) -> None:
        """Removes everything in it, also pods of nodes that are gone, and the volume."""
        self.kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
        self.bed.kubectl("delete", "namespace", self.name, f"--timeout={_SECONDS:.0f}s")
        self.bed.kubectl("delete", "persistentvolume", self._volume_name, "--ignore-not-found")
        shutil.rmtree(self.runs)

    @property
    def _volume_name(self) -> str:
        return f"{CLAIM}-{self.name}"

    def _volume(self) -> dict[str, Any]:
        bound = {"namespace": self.name, "name": CLAIM}
        spec = {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "claimRef": bound}
        spec |= {"storageClassName": "", "persistentVolumeReclaimPolicy": "Retain"}
        spec |= {"hostPath": {"path": str(self.runs), "type": "Directory"}}
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self._volume_name}, "spec": spec}

    def _is_settled(self) -> bool:
        try:  # a pod is refused as long as its namespace has no service account
            self.get("serviceaccount", "default")
        except TestbedError:
            return False
        return self.get("persistentvolumeclaim", CLAIM)["status"].get("phase") == "Bound"


def _claim(volume: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    spec |= {"storageClassName": "", "volumeName": volume}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
