"""Why a run waits: what its objects say, in words, with what to do. Pure functions; nothing is guessed.

The categories, and the words where the same thing is meant, are every scheduler's (`cluster.submitting.pending`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.kubernetes.status.objects import Container, Event, Pod, Workload, current_pods, placed_badly
from cluster.submitting.pending import WAIT, Explanation

_QUEUE = "`kubectl get localqueue,workload` shows the queue"
LEAVING = 75
"""The exit code of a pod that asks to be replaced."""
_DESCRIBE = "`kubectl describe pod POD` shows more"


@dataclass(frozen=True)
class ClusterFacts:
    """What was read. None: not read."""

    wanted: int
    """Pods of the run."""
    workload: Workload | None = None
    pods: Sequence[Pod] = ()
    events: Sequence[Event] | None = None
    admission: Workload | None = None
    """Kueue's Workload of the run."""


def explain(read: ClusterFacts) -> Explanation:
    """Why the run's pods are not all at work: the first cause that what was read proves."""
    for cause in (
        _kueue,
        _suspended,
        _not_made,
        lost_pods,
        _image,
        _placing,
        _died,
        _claim,
        _unschedulable,
        _starting,
        _between,
    ):
        if (found := cause(read)) is not None:
            return found
    return _gathering(read)


def num_present(read: ClusterFacts) -> int:
    """Pods that are at their posts."""
    return sum(pod.is_running and not pod.is_leaving for pod in current_pods(read.pods))


def _kueue(read: ClusterFacts) -> Explanation | None:
    """Kueue's own typed reasons, from the Workload's conditions."""
    if read.admission is None:
        return None
    conditions = {one.type: one for one in read.admission.conditions}
    admitted, evicted = conditions.get("Admitted"), conditions.get("Evicted")
    if admitted is not None and admitted.status == "True":
        return None
    reserved = conditions.get("QuotaReserved")
    told = next((one for one in (reserved, admitted, evicted) if one and one.status != "True"), evicted)
    if told is None:
        return Explanation("quota", "Kueue has not looked at it yet", f"{WAIT}; {_QUEUE}")
    reason, message = told.reason, _short(told.message)
    if evicted is not None and evicted.status == "True" and evicted.reason == "Preempted":
        message = f"it was preempted: {_short(evicted.message)}; {message}"
    category, words, remedy = _KUEUE.get(reason, _kueue_by_message(message))
    return Explanation(category, f"{words} (Kueue: {message or reason})", remedy)


_KUEUE: dict[str, tuple[str, str, str]] = {
    "NoMatchingFlavor": ("resources", "no node of its queue has what it asks for", "correct the site profile"),
    "WaitingForQuota": ("quota", "its queue limits the resources, and they are in use", f"{WAIT}; {_QUEUE}"),
    "ExceedsMaxQuota": (
        "quota",
        "it asks for more than its queue allows to one run",
        f"it can never start as it is: cancel it, and ask for less; {_QUEUE}",
    ),
    "TopologyPlacementFailed": ("resources", "no free nodes are as near to each other as it asks", WAIT),
    "WaitingForPreemptedWorkloads": ("resources", "runs of a lower priority make place for it", WAIT),
    "Misconfigured": ("held", "its queue is not configured as it must be", f"ask the site; {_QUEUE}"),
    "Inadmissible": ("held", "its queue does not take it", f"correct `kueue.queue` in the site profile; {_QUEUE}"),
    "Suspended": ("held", "an administrator holds its queue", "ask the site why"),
    "WaitingForPodsReady": ("dependency", "it waits until the pods of another run are ready", WAIT),
    "Deactivated": ("held", "Kueue has deactivated it", "`kubectl describe workload` says why; submit again"),
}


def _kueue_by_message(message: str) -> tuple[str, str, str]:
    """Versions of Kueue that say only `Pending` tell the rest in the message."""
    patterns = {
        r"doesn't exist|does not exist|is stopped|inactive|is not found": "Inadmissible",
        r"maximum capacity|exceeds? (the )?max|request > ": "ExceedsMaxQuota",
        r"topology": "TopologyPlacementFailed",
        r"no matching flavor|didn't match|untolerated taint|node affinity": "NoMatchingFlavor",
        r"insufficient|unused quota": "WaitingForQuota",
        r"preempt": "WaitingForPreemptedWorkloads",
    }
    for pattern, reason in patterns.items():
        if re.search(pattern, message, re.IGNORECASE):
            return _KUEUE[reason]
    return "quota", "it waits in its queue", f"{WAIT}; {_QUEUE}"


def _suspended(read: ClusterFacts) -> Explanation | None:
    if read.workload is None or not read.workload.is_suspended:
        return None
    return Explanation(
        "held", "somebody has suspended it", f"`kubectl patch` its {read.workload.kind}, or ask the site"
    )


def _not_made(read: ClusterFacts) -> Explanation | None:
    """Pods that the controller may not make: nobody sees them, only its events tell."""
    if len(current_pods([pod for pod in read.pods if not pod.is_leaving])) >= read.wanted:
        return None
    failed = [one for one in read.events or () if one.reason == "FailedCreate"]
    if not failed:
        return None
    message = max(failed, key=lambda one: one.time).message
    if quota := re.search(r"exceeded quota: ([\w.-]+), requested: (\S+), used: (\S+), limited: (\S+)", message):
        name, asked, used, most = quota.groups()
        words = f"quota {name} of the namespace: a pod asks for {asked}, {used} are in use, and {most} are allowed"
        return Explanation("quota", words, f"{WAIT} when there is room; `kubectl describe quota` shows it")
    for pattern, category, words, remedy in _REFUSED_PODS:
        if re.search(pattern, message):
            return Explanation(category, f"{words}: {_short(message)}", remedy)
    return Explanation("other", f"its pods cannot be made: {_short(message)}", "the API's own words say why")


_REFUSED_PODS = (
    ("violates PodSecurity", "held", "the namespace admits only restricted pods", "correct the site profile"),
    ("no PriorityClass|priority class", "held", "its priority class is not there", "correct `priority_class`"),
    ("serviceaccount|service account", "held", "its service account is not there", "correct `service_account`"),
    ("must specify|failed quota", "quota", "a quota asks every pod for limits", "set them in the site profile"),
    (
        "LimitRange|[mM]aximum .* usage",
        "quota",
        "it asks for more than the namespace allows to one pod",
        "ask for less",
    ),
)


def lost_pods(read: ClusterFacts) -> Explanation | None:
    """Pods that should be gone and are not: their node does not answer, and nobody can say that they have ended."""
    stuck = [pod for pod in current_pods(read.pods) if pod.is_leaving and not pod.has_ended and _is_lost(pod)]
    if not stuck:
        return None
    which = ", ".join(f"pod {pod.index} on {pod.node or 'a node'}" for pod in stuck)
    words = f"a node does not answer, and its pod stays Terminating until somebody says that it is gone ({which})"
    node = stuck[0].node or "NODE"
    remedy = f"when the node is off for sure: `kubectl taint node {node} node.kubernetes.io/out-of-service=:NoExecute`"
    return Explanation("resources", f"{words}; {_present(read)}", f"{remedy}, or delete the Node; else {WAIT}")


def _is_lost(pod: Pod) -> bool:
    ready = pod.condition("Ready")
    disrupted = pod.condition("DisruptionTarget")
    by_taint = disrupted is not None and disrupted.reason == "DeletionByTaintManager"
    return pod.reason == "NodeLost" or (ready is not None and ready.reason == "NodeStatusUnknown") or by_taint


_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")


def _image(read: ClusterFacts) -> Explanation | None:
    for pod, container in _waiting(read):
        if container.reason in _IMAGE:
            told = _last_event(read, pod, "Failed") or container.message
            words = f"pod {pod.index}: image {container.image} cannot be pulled ({container.reason}): {_short(told)}"
            return Explanation("other", words, "correct `image` or `image_pull_secrets` in the site profile")
        if container.reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            words = f"pod {pod.index}: its container cannot be made: {_short(container.message)}"
            return Explanation("held", words, "a Secret or a key that the profile's `secrets` name may be missing")
    return None


def _placing(read: ClusterFacts) -> Explanation | None:
    for pod in current_pods(read.pods):
        if (failed := placed_badly(pod)) is not None:
            words = f"pod {pod.index} could not make the run directory (exit code {failed.exit_code})"
            told = f": {_short(failed.message)}" if failed.message else ""
            return Explanation("other", words + told, f"`kubectl logs {pod.name} -c place` says why")
    return None


def _died(read: ClusterFacts) -> Explanation | None:
    """Pods whose first process was killed, or broke: their end is no attempt's, and only they tell it."""
    for pod in current_pods(read.pods):
        dead = next((one for one in pod.containers if one.exit_code not in (None, 0, LEAVING)), None)
        if dead is not None and dead.reason == "OOMKilled":
            words = f"pod {pod.index} was killed for want of memory, and is to be replaced"
            return Explanation("resources", words, "raise `memory_per_gpu` in the site profile")
        if dead is not None:
            words = f"pod {pod.index} died (exit code {dead.exit_code}), and is to be replaced"
            return Explanation("other", words, f"`kubectl logs {pod.name}` says why")
    return None


def _claim(read: ClusterFacts) -> Explanation | None:
    """Storage that is not there, or not mounted."""
    for pod in _unstarted(read):
        scheduled = pod.condition("PodScheduled")
        message = scheduled.message if scheduled is not None and scheduled.status == "False" else ""
        if missing := re.search(r'persistentvolumeclaim "([\w.-]+)" not found', message):
            return Explanation("held", f"claim {missing[1]} is not there", "make it, or correct the site profile")
        if re.search(r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim .* bound", message):
            words = f"a claim has no volume yet: {_short(message)}"
            return Explanation(
                "resources", words, f"{WAIT} if the site makes volumes; `kubectl describe pvc` says more"
            )
        if mount := _last_event(read, pod, "FailedMount", "FailedAttachVolume"):
            return Explanation("other", f"pod {pod.index}: storage cannot be mounted: {_short(mount)}", _DESCRIBE)
    return None


def _unschedulable(read: ClusterFacts) -> Explanation | None:
    for pod in _unstarted(read):
        scheduled = pod.condition("PodScheduled")
        if pod.is_gated or (scheduled is not None and scheduled.reason == "SchedulingGated"):
            return Explanation("held", "a gate keeps its pods from being scheduled", "ask the site who set it")
        if scheduled is None or scheduled.status != "False":
            continue
        words = f"it waits until {read.wanted} fitting nodes are free ({_short(_nodes(scheduled.message))})"
        return Explanation("resources", f"{words}; {_present(read)}", _unschedulable_remedy(scheduled.message))
    return None


def _unschedulable_remedy(message: str) -> str:
    """More of what nodes have too little of comes free; a label or a taint does not change by itself."""
    if re.search(r"Insufficient|Too many pods", _nodes(message)):
        return f"{WAIT}; fewer nodes or GPUs start sooner"
    return "no node of the cluster has what it asks for: correct `node_selector`, `tolerations` or `gpu_types`"


def _nodes(message: str) -> str:
    """The scheduler's count of nodes by reason, without its words on preemption."""
    return re.split(r"\.? *(?:preemption:|no new claims)", message)[0].rstrip(". ")


def _starting(read: ClusterFacts) -> Explanation | None:
    for pod, container in _waiting(read):
        if told := _last_event(read, pod, "FailedCreatePodSandBox", "NetworkNotReady"):
            return Explanation("other", f"pod {pod.index}: its node cannot start it: {_short(told)}", _DESCRIBE)
        if container.reason in ("ContainerCreating", "PodInitializing"):
            words = f"pod {pod.index} is being started on {pod.node or 'its node'}; {_present(read)}"
            return Explanation("other", words, WAIT)
    return None


def _between(read: ClusterFacts) -> Explanation | None:
    """Pods that have left, whose places Kubernetes keeps empty for a while: no object says so but they themselves."""
    gone = [pod.index for pod in current_pods(read.pods) if pod.phase == "Failed"]
    if not gone:
        return None
    which = ", ".join(map(str, gone))
    words = f"Kubernetes waits before it replaces pod {which}: 10 s, and twice as long each time, up to 10 minutes"
    return Explanation("other", f"{words}; {_present(read)}", f"{WAIT}; stop and resume it to begin anew")


def _gathering(read: ClusterFacts) -> Explanation:
    if not read.pods:
        if read.events is None:
            return Explanation("other", "no pod is there yet, and its events were not read", "look again in a minute")
        return Explanation("other", "no pod is there yet", "look again in a minute")
    return Explanation("other", f"the pods gather: {_present(read)}", WAIT)


def _present(read: ClusterFacts) -> str:
    return f"{num_present(read)} of {read.wanted} pods are there"


def _unstarted(read: ClusterFacts) -> list[Pod]:
    return [pod for pod in current_pods(read.pods) if not pod.is_running and not pod.is_leaving]


def _waiting(read: ClusterFacts) -> Iterator[tuple[Pod, Container]]:
    for pod in _unstarted(read):
        for container in pod.containers:
            if container.state == "waiting":
                yield pod, container


def _last_event(read: ClusterFacts, pod: Pod, *reasons: str) -> str:
    found = [one for one in read.events or () if one.about == pod.name and one.reason in reasons]
    return max(found, key=lambda one: one.time).message if found else ""


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else flat[:297] + "..."
