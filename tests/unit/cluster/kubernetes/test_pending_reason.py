"""Every cause for which pods are not at work, in words, out of the JSON that the API gives."""

from typing import Any

import pytest

from cluster.kubernetes.names import INDEX_LABEL
from cluster.kubernetes.status.objects import current_pods, event_of, pod_of, workload_of
from cluster.kubernetes.status.pending_reason import ClusterFacts, explain, num_present
from cluster.submitting.pending import CATEGORIES


def pod(index: int = 0, state: dict[str, Any] | None = None, container: str = "trainer", **more: Any) -> dict[str, Any]:
    """A pod as the API gives it: `state` is that of one container, `conditions` are type -> (status, reason, words)."""
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": words}
        for kind, (status, reason, words) in more.get("conditions", {}).items()
    ]
    statuses = [{"name": container, "image": "registry.example.com/t:1", "state": state}] if state else []
    key = "initContainerStatuses" if container == "place" else "containerStatuses"
    metadata = {"name": f"run-{index}", "uid": f"u{index}", "labels": {INDEX_LABEL: str(index)}}
    metadata |= {"deletionTimestamp": "2026-11-21T10:00:00Z"} if more.get("leaving") else {}
    status = {"phase": more.get("phase", "Pending"), "conditions": conditions, key: statuses}
    status |= {"reason": more.get("reason", "")}
    spec = {"nodeName": more.get("node", "n1")} | ({"schedulingGates": [{"name": "x"}]} if more.get("gated") else {})
    return {"metadata": metadata, "spec": spec, "status": status}


def event(about: str, reason: str, message: str, time: str = "2026-11-21T10:00:00Z") -> dict[str, Any]:
    return {
        "involvedObject": {"name": about},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": time,
    }


def failed(message: str) -> dict[str, Any]:
    """A Job that may not make its pods."""
    return {"events": [event("run-7ac4b", "FailedCreate", message)]}


def unscheduled(message: str) -> dict[str, Any]:
    """A pod that no node takes."""
    return {"pods": [pod(conditions={"PodScheduled": ("False", "Unschedulable", message)})]}


def starting(reason: str, message: str = "", *events: tuple[str, str]) -> dict[str, Any]:
    """A pod whose container waits."""
    told = [event("run-0", *one) for one in events]
    return {"pods": [pod(0, {"waiting": {"reason": reason, "message": message}})], "events": told}


def reserved(reason: str, message: str = "", status: str = "False", **more: tuple[str, str, str]) -> dict[str, Any]:
    """A Workload of Kueue's without its quota."""
    return {"admission": kueue(QuotaReserved=(status, reason, message), **more)}


def kueue(**conditions: tuple[str, str, str]) -> dict[str, Any]:
    return pod(conditions=conditions) | {"kind": "Workload"}


RUNNING = {"running": {"startedAt": "2026-11-21T10:00:00Z"}}
GONE = "0/4 nodes are available: 1 had untolerated taint(s), 3 Insufficient nvidia.com/gpu. preemption: 0/4 nodes"
LABELS = "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector. preemption: not helpful"
QUOTA = (
    'pods "run-0-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, '
    "used: requests.nvidia.com/gpu=12, limited: requests.nvidia.com/gpu=16"
)
LOST = {"leaving": True, "phase": "Running", "node": "n2"}
SILENT = {"Ready": ("False", "NodeStatusUnknown", "")}
TAINTED = {"DisruptionTarget": ("True", "DeletionByTaintManager", "")}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
LEFT = {"terminated": {"exitCode": 75}}
PLACED = {"terminated": {"exitCode": 2, "message": "another job"}}

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing yet", {}, "other", "no pod is there yet"),
    ("suspended", {"workload": {"spec": {"suspend": True}}}, "held", "somebody has suspended it"),
    (
        "quota",
        failed(QUOTA),
        "quota",
        "quota gpus of the namespace: a pod asks for requests.nvidia.com/gpu=8, requests",
    ),
    ("pod security", failed('violates PodSecurity "restricted:latest"'), "held", "only restricted"),
    ("no account", failed('serviceaccount "mine" not found'), "held", "service account"),
    ("priority class", failed("no PriorityClass with name x was found"), "held", "priority class"),
    ("not made", failed("webhook says no"), "other", "cannot be made: webhook says no"),
    ("gpus", unscheduled(GONE), "resources", "3 Insufficient nvidia.com/gpu); 0 of 2"),
    ("labels", unscheduled(LABELS), "resources", "didn't match"),
    ("gated", {"pods": [pod(gated=True)]}, "held", "a gate"),
    ("claim missing", unscheduled('persistentvolumeclaim "x" not found'), "held", "claim x is not there"),
    ("claim pending", unscheduled("unbound immediate PersistentVolumeClaims"), "resources", "no volume yet"),
    (
        "mount",
        starting("ContainerCreating", "", ("FailedMount", "timed out")),
        "other",
        "storage cannot be mounted: timed out",
    ),
    (
        "image",
        starting("ImagePullBackOff", "Back-off", ("Failed", "not found")),
        "other",
        "cannot be pulled (ImagePullBackOff): not found",
    ),
    ("secret", starting("CreateContainerConfigError", 'secret "hub" not found'), "held", 'secret "hub" not found'),
    ("place", {"pods": [pod(0, PLACED, "place")]}, "other", "exit code 2): another job"),
    (
        "sandbox",
        starting("ContainerCreating", "", ("FailedCreatePodSandBox", "no network")),
        "other",
        "cannot start it: no network",
    ),
    ("starting", starting("ContainerCreating"), "other", "pod 0 is being started on n1; 0 of 2"),
    ("gathering", {"pods": [pod(0, RUNNING)]}, "other", "the pods gather: 1 of 2 pods are there"),
    (
        "lost node",
        {"pods": [pod(0, RUNNING), pod(1, RUNNING, conditions=SILENT, **LOST)]},
        "resources",
        "stays Terminating until somebody says that it is gone (pod 1 on n2); 1 of 2 pods are there",
    ),
    ("lost by taint", {"pods": [pod(1, RUNNING, conditions=TAINTED, **LOST)]}, "resources", "pod 1 on n2"),
    (
        "kept empty",
        {"pods": [pod(0, RUNNING), pod(1, LEFT, conditions=TAINTED, leaving=True, phase="Failed")]},
        "other",
        "Kubernetes waits before it replaces pod 1: 10 s, and twice as long each time, up to 10 minutes; 1 of 2",
    ),
    ("kueue new", {"admission": kueue()}, "quota", "Kueue has not looked at it yet"),
    ("kueue quota", reserved("WaitingForQuota", "gpus"), "quota", "in use (Kueue: gpus)"),
    ("kueue max", reserved("ExceedsMaxQuota", "16 > 8"), "quota", "more than its queue allows"),
    ("kueue flavor", reserved("NoMatchingFlavor", ""), "resources", "no node of its queue"),
    ("kueue topology", reserved("TopologyPlacementFailed", ""), "resources", "as near"),
    ("kueue preempts", reserved("WaitingForPreemptedWorkloads", ""), "resources", "lower priority"),
    ("kueue wrong", reserved("Misconfigured", ""), "held", "not configured"),
    ("kueue stopped", reserved("Suspended", ""), "held", "holds its queue"),
    (
        "kueue pods",
        reserved("", "", "True", Admitted=("False", "WaitingForPodsReady", "")),
        "dependency",
        "another run",
    ),
    (
        "kueue old",
        reserved("Pending", "couldn't assign flavors: insufficient unused quota for cpu"),
        "quota",
        "in use (Kueue: couldn't assign",
    ),
    ("kueue no queue", reserved("Inadmissible", "LocalQueue q doesn't exist"), "held", "does not take it"),
    (
        "kueue evicted",
        reserved("WaitingForQuota", "no room", Evicted=("True", "Preempted", "for run-9")),
        "quota",
        "it was preempted: for run-9; no room",
    ),
]


def evidence(given: dict[str, Any]) -> ClusterFacts:
    return ClusterFacts(
        wanted=2,
        workload=workload_of(given["workload"]) if "workload" in given else None,
        pods=[pod_of(one) for one in given.get("pods", ())],
        events=[event_of(one) for one in given.get("events", ())],
        admission=workload_of(given["admission"]) if "admission" in given else None,
    )


@pytest.mark.parametrize(("given", "category", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_causes(given: dict[str, Any], category: str, words: str) -> None:
    found = explain(evidence(given))
    assert found.category == category and category in CATEGORIES
    assert words in found.words and found.remedy


def test_what_was_not_read_is_said() -> None:
    assert "events were not read" in explain(ClusterFacts(wanted=1)).words


def test_more_of_the_same_comes_free_and_labels_do_not() -> None:
    assert "starts by itself" in explain(evidence(unscheduled(GONE))).remedy
    assert "correct `node_selector`" in explain(evidence(unscheduled(LABELS))).remedy


def test_a_kueue_that_has_admitted_it_is_not_why() -> None:
    admitted = kueue(QuotaReserved=("True", "", ""), Admitted=("True", "", ""))
    assert explain(evidence({"admission": admitted, "pods": [pod(0, RUNNING)]})).words.startswith("the pods gather")


def test_the_pod_that_took_a_lost_ones_place_counts() -> None:
    old = pod_of(pod(1, RUNNING, leaving=True))
    new = pod_of(pod(1, RUNNING) | {"metadata": {"name": "new", "labels": {INDEX_LABEL: "1"}}})
    for order in ([old, new], [new, old]):
        assert [one.name for one in current_pods(order)] == ["new"]
        assert num_present(ClusterFacts(2, pods=order)) == 1


def test_long_messages_are_cut() -> None:
    found = explain(evidence(failed("x" * 5000)))
    assert len(found.words) < 400
