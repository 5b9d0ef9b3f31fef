"""A run behind a queue of Kueue: held while its quota is taken, let in when it is free, put back by priority."""

from pathlib import Path
from typing import Any

import pytest
from kubernetes_runs import KubernetesRun, use_cluster

from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.support.documents import read_progress

KUEUE = "kueue.x-k8s.io/v1beta2"
ONE_RUN = {"cpu": "3", "memory": "2Gi"}


def objects(namespace: str) -> list[dict[str, Any]]:
    """A queue with room for one run of two pods, in which the more important one goes first."""
    resources = [{"name": name, "nominalQuota": amount} for name, amount in ONE_RUN.items()]
    group = {"coveredResources": list(ONE_RUN), "flavors": [{"name": "plain", "resources": resources}]}
    admits = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    preemption = {"withinClusterQueue": "LowerPriority"}
    specs = {
        "ResourceFlavor": ("plain", {}),
        "ClusterQueue": ("one", {"namespaceSelector": admits, "resourceGroups": [group], "preemption": preemption}),
        "LocalQueue": ("people", {"clusterQueue": "one"}),
    }
    found = [
        {"apiVersion": KUEUE, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, (name, spec) in specs.items()
    ]
    important = {"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": "important"}, "value": 1000}
    return [*found, important]


def queued(namespace: Namespace, folder: Path, **more: str) -> KubernetesRun:
    return KubernetesRun(namespace, folder, kubernetes={"kueue": {"queue": "people", **more}, "cpus_per_gpu": 1})


@pytest.mark.testbed
def test_a_queue_holds_a_run_lets_it_in_and_puts_it_back(
    kubernetes_testbed: Testbed, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cluster(namespace, monkeypatch)
    kubernetes_testbed.install_kueue()
    namespace.apply(*objects(namespace.name))
    first, second = queued(namespace, tmp_path / "first"), queued(namespace, tmp_path / "second")
    first.submit()
    first.trains(0)
    second.submit()
    assert "insufficient unused quota" in second.waits_for("quota")
    urgent = queued(namespace, tmp_path / "urgent", priority_class="important")
    urgent.submit()
    urgent.trains(0)
    first.waits_for("quota")
    urgent.backend.cancel(urgent.dir)
    second.backend.cancel(second.dir)
    first.trains(1)
    began = (read_progress(first.dir) or {})["resumed_from"]["step"]
    before = first.records()[0]  # with its last words: there was no pod that could have told them before
    assert (before["outcome"], before["decision"]["action"]) == ("preempted", "restart")
    assert before["last_checkpoint_step"] == before["last_step"] == began > 0
    first.backend.cancel(first.dir)
    assert first.backend.status(first.dir).outcome == "stopped"
