"""What is installed into a cluster that is up: JobSet and Kueue, each with the chart of its own release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.kubernetes.testbed import images
from tests.cluster.kubernetes.testbed.config import REGISTRY
from tests.cluster.kubernetes.testbed.host import TestbedError, run, wait_until
from tests.cluster.kubernetes.tools import build

if TYPE_CHECKING:
    from tests.cluster.kubernetes.testbed.bed import Testbed

_SECONDS = 120
_POD = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}
_JOB = {"name": "main", "template": {"spec": {"template": {"spec": _POD}}}}
_SAMPLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jobset": ("jobset.x-k8s.io/v1alpha2", "JobSet", {"replicatedJobs": [_JOB]}),
    "kueue": ("kueue.x-k8s.io/v1beta2", "ClusterQueue", {"namespaceSelector": {}}),
}


def install_jobset(bed: Testbed) -> None:
    """Installs JobSet into the namespace jobset-system, unless it is there."""
    values = {
        "image.repository": f"{REGISTRY}/jobset",
        "image.tag": "1",
        "image.pullPolicy": "IfNotPresent",
        "controller.resources.requests.cpu": "50m",
        "controller.leaderElection.enable": "false",
    }
    _install(bed, "jobset", {**values, **_on_first_node("controller.nodeSelector", bed)})


def install_kueue(bed: Testbed) -> None:
    """Installs Kueue into the namespace kueue-system, unless it is there."""
    values = {
        "controllerManager.manager.image.repository": f"{REGISTRY}/kueue",
        "controllerManager.manager.image.tag": "1",
        "controllerManager.manager.image.pullPolicy": "IfNotPresent",
        "controllerManager.manager.resources.requests.cpu": "50m",
    }
    _install(bed, "kueue", {**values, **_on_first_node("controllerManager.nodeSelector", bed)})


def _on_first_node(key: str, bed: Testbed) -> dict[str, str]:
    return {rf"{key}.kubernetes\.io/hostname": bed.node_names[0]}


def _install(bed: Testbed, name: str, values: dict[str, str]) -> None:
    if unbuilt := build.missing(addons=[name]):
        raise TestbedError(f"not built: {', '.join(unbuilt)}\nmake kubernetes-tools")
    if (done := bed.directory / f"{name}-installed").exists():
        return
    archive = bed.directory / "images" / f"{name}.tar"
    images.write_program_image(archive, f"{REGISTRY}/{name}:1", build.folder() / "bin" / name, "manager")
    bed.import_image(archive)
    chart = build.folder() / "charts" / name
    options = [f"--namespace={name}-system", "--create-namespace", "--wait", f"--timeout={_SECONDS}s"]
    options += [f"--set-string={key}={value}" for key, value in values.items() if value not in ("true", "false")]
    options += [f"--set={key}={value}" for key, value in values.items() if value in ("true", "false")]
    run("helm", "upgrade", "--install", name, chart, *options, env=_environment(bed))
    wait_until(lambda: _answers(bed, *_SAMPLES[name]), _SECONDS, f"{name} does not answer the API server")
    done.touch()


def _answers(bed: Testbed, version: str, kind: str, spec: dict[str, Any]) -> bool:
    """Whether the add-on's webhook lets an object through; rules for Services follow a ready pod by a second."""
    sample = {"apiVersion": version, "kind": kind, "metadata": {"name": "sample"}, "spec": spec}
    try:
        bed.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(sample))
    except TestbedError:
        return False
    return True


def _environment(bed: Testbed) -> dict[str, str]:
    """Helm's own files go to the testbed's folder."""
    home: Path = bed.directory / "helm"
    folders = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return {**bed.environment, **folders}
