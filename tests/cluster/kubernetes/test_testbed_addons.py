"""JobSet and Kueue from their own charts: a gang finds itself by name, a queue holds back what exceeds its quota."""

from typing import Any

import pods
import pytest

from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.cluster.kubernetes.testbed.host import wait_until

JOBSET = "jobset.x-k8s.io/v1alpha2"
KUEUE = "kueue.x-k8s.io/v1beta2"
MEET = "until getent hosts set-ranks-0-0.set; do sleep 0.2; done"


def jobset(namespace: Namespace, *command: str) -> dict[str, Any]:
    job = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0}
    template = {"spec": {**job, "template": {"spec": pods.pod_spec(namespace.image, *command)}}}
    spec = {"replicatedJobs": [{"name": "ranks", "replicas": 1, "template": template}]}
    return {"apiVersion": JOBSET, "kind": "JobSet", "metadata": {"name": "set"}, "spec": spec}


def queued_job(namespace: Namespace, name: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "queue"}}
    template = {"spec": pods.pod_spec(namespace.image, "sleep", "3", gpus=4)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": template},
    }


def queue_of_four_gpus() -> list[dict[str, Any]]:
    resources = [{"name": "nvidia.com/gpu", "nominalQuota": 4}]
    group = {"coveredResources": ["nvidia.com/gpu"], "flavors": [{"name": "any", "resources": resources}]}
    objects = {
        "ResourceFlavor": ("any", {}),
        "ClusterQueue": ("four", {"namespaceSelector": {}, "resourceGroups": [group]}),
        "LocalQueue": ("queue", {"clusterQueue": "four"}),
    }
    return [
        {"apiVersion": KUEUE, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, (name, spec) in objects.items()
    ]


@pytest.mark.testbed
def test_pods_of_a_jobset_meet_by_name(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    kubernetes_testbed.install_jobset()
    namespace.apply(jobset(namespace, "sh", "-c", MEET))
    namespace.kubectl("wait", "--for=condition=Completed", "jobset/set", "--timeout=120s")
    assert {one["status"]["phase"] for one in namespace.pods()} == {"Succeeded"}


@pytest.mark.testbed
def test_a_queue_lets_in_what_its_quota_allows(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    kubernetes_testbed.install_kueue()
    namespace.apply(*queue_of_four_gpus())
    namespace.apply(queued_job(namespace, "first"))
    wait_until(lambda: not suspended(namespace, "first"), 60, "the first job is not let in")
    namespace.apply(queued_job(namespace, "second"))
    assert suspended(namespace, "second")
    namespace.kubectl("wait", "--for=condition=Complete", "job/first", "job/second", "--timeout=120s")


def suspended(namespace: Namespace, name: str) -> bool:
    return namespace.get("job", name)["spec"]["suspend"]
