"""What every cluster can do for a test, the testbed as well as one of your own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.testbed.config import TRAINER_IMAGE
from tests.cluster.kubernetes.testbed.host import TestbedError, run
from tests.cluster.kubernetes.tools import build

CLAIM = "runs"


class Cluster:
    """A Kubernetes that an administrator's kubeconfig leads to. `folder` is for files about it."""

    def __init__(self, kubeconfig: Path, folder: Path, image: str = TRAINER_IMAGE) -> None:
        self.kubeconfig, self.folder, self.image = kubeconfig, folder, image

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with KUBECONFIG, and the tools first in PATH."""
        path = f"{build.folder() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> str:
        """The output of kubectl as administrator; TestbedError with its words when it fails."""
        return run("kubectl", *arguments, text=text, env=self.environment)

    def get(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get` gives, as data."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        """Applies objects that are given as data; into `namespace` where they name none."""
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl(f"--namespace={namespace}", "apply", "-f", "-", text=together)

    def node_states(self) -> dict[str, str]:
        """Whether each node is ready, in the API's words: True, False or Unknown."""
        found = {node["metadata"]["name"]: node["status"].get("conditions", []) for node in self.get("nodes")["items"]}
        return {
            name: next((one["status"] for one in conditions if one["type"] == "Ready"), "Unknown")
            for name, conditions in found.items()
        }

    def kubeconfig_for(self, who: str) -> Path:
        """A kubeconfig for a service account, given as `NAMESPACE:NAME`."""
        namespace, _, name = who.rpartition(":")
        if not namespace:
            raise TestbedError(f"{who}: a service account is named NAMESPACE:NAME")
        token = self.kubectl("create", "token", name, f"--namespace={namespace}")
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--output=json"))
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path

    def make_volume(self, namespace: str) -> None:
        """Makes what the claim `runs` of a namespace needs and the cluster does not make itself."""

    def remove_volume(self, namespace: str) -> None:
        """Removes what `make_volume` made."""

    def claim(self, namespace: str) -> dict[str, Any]:
        """The claim `runs`; by the default storage class, or by that in TUNEYARD_TEST_STORAGE_CLASS."""
        chosen = os.environ.get("TUNEYARD_TEST_STORAGE_CLASS")
        return claim_with({"storageClassName": chosen} if chosen else {})


def claim_with(more: dict[str, Any]) -> dict[str, Any]:
    """The claim `runs`, which pods on several nodes may write to."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, **more}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
