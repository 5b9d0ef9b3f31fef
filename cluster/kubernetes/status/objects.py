"""What the API says about a run's objects, as typed facts. Pure: out of the API's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.kubernetes.names import COMPONENT_LABEL, INDEX_LABEL, PLACE, PREPARE, TRAINER

Json = Mapping[str, Any]
_OVER = ("Complete", "Completed", "Failed")


@dataclass(frozen=True)
class Condition:
    """One condition of an object; `status` is True, False or Unknown."""

    type: str
    status: str = "True"
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Container:
    """One container: waiting and why, running, or ended and how."""

    name: str
    state: str = ""  # waiting | running | terminated
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    image: str = ""


@dataclass(frozen=True)
class Pod:
    """One post of the run."""

    name: str
    uid: str = ""
    index: int = 0
    phase: str = ""
    node: str = ""
    is_leaving: bool = False
    reason: str = ""
    conditions: tuple[Condition, ...] = ()
    containers: tuple[Container, ...] = ()
    is_gated: bool = False
    is_preparing: bool = False
    """Whether it is the pod that tokenises, and none of those that train."""

    @property
    def container(self) -> str:
        """The container in which its part of the run is carried out."""
        return PREPARE if self.is_preparing else TRAINER

    @property
    def is_running(self) -> bool:
        """Whether that container runs, so that something can be executed in it."""
        return any(one.name == self.container and one.state == "running" for one in self.containers)

    @property
    def has_ended(self) -> bool:
        """Whether it is over for Kubernetes, even if it is still shown."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def has_run(self) -> bool:
        """Whether that container ran once, so that there may be something to read."""
        return any(one.name == self.container and one.state == "terminated" for one in self.containers)

    def condition(self, kind: str) -> Condition | None:
        """Its condition of that type."""
        return next((one for one in self.conditions if one.type == kind), None)


@dataclass(frozen=True)
class Workload:
    """The run's Job or JobSet."""

    kind: str
    is_suspended: bool = False
    is_leaving: bool = False
    conditions: tuple[Condition, ...] = ()
    name: str = ""

    @property
    def end(self) -> Condition | None:
        """How it ended; None while it has not."""
        return next((one for one in self.conditions if one.type in _OVER and one.status == "True"), None)

    @property
    def succeeded(self) -> bool:
        """Whether all that it was to do is done."""
        return self.end is not None and self.end.type != "Failed"


@dataclass(frozen=True)
class Event:
    """What a controller told about an object."""

    about: str
    reason: str
    message: str
    is_warning: bool
    time: str = ""


def pod_of(given: Json) -> Pod:
    """A pod out of its JSON."""
    metadata, spec, status = _part(given, "metadata"), _part(given, "spec"), _part(given, "status")
    named = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    index = str(named.get(INDEX_LABEL) or "")
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return Pod(
        name=str(metadata.get("name", "")),
        uid=str(metadata.get("uid", "")),
        index=int(index) if index.isdecimal() else 0,
        phase=str(status.get("phase", "")),
        node=str(spec.get("nodeName") or ""),
        is_leaving=bool(metadata.get("deletionTimestamp")),
        reason=str(status.get("reason") or ""),
        conditions=_conditions(status),
        containers=tuple(_container(one) for one in statuses),
        is_gated=bool(spec.get("schedulingGates")),
        is_preparing=is_preparing(given),
    )


def is_preparing(given: Json) -> bool:
    """Whether an object belongs to the Job that tokenises."""
    return (_part(given, "metadata").get("labels") or {}).get(COMPONENT_LABEL) == PREPARE


def workload_of(given: Json) -> Workload:
    """A Job or JobSet out of its JSON."""
    kind = str(given.get("kind") or "Job")
    metadata, spec = _part(given, "metadata"), _part(given, "spec")
    return Workload(
        kind,
        bool(spec.get("suspend")),
        bool(metadata.get("deletionTimestamp")),
        _conditions(_part(given, "status")),
        str(metadata.get("name", "")),
    )


def event_of(given: Json) -> Event:
    """An event out of its JSON."""
    time = given.get("lastTimestamp") or given.get("eventTime") or _part(given, "metadata").get("creationTimestamp")
    about, message = str(_part(given, "involvedObject").get("name", "")), str(given.get("message") or "")
    return Event(about, str(given.get("reason") or ""), message, given.get("type") == "Warning", str(time or ""))


def current_pods(pods: Sequence[Pod]) -> list[Pod]:
    """One pod for each post, the lowest first: one that is there rather than one that leaves or has ended."""
    found: dict[int, Pod] = {}
    for pod in sorted(pods, key=_liveliness):
        found[pod.index] = pod
    return [found[index] for index in sorted(found)]


def _liveliness(pod: Pod) -> tuple[bool, bool, bool]:
    return (not pod.has_ended, not pod.is_leaving, pod.is_running)


def _container(given: Json) -> Container:
    state = _part(given, "state")
    name = next((kind for kind in ("running", "waiting", "terminated") if kind in state), "")
    told = _part(state, name) if name else {}
    return Container(
        name=str(given.get("name", "")),
        state=name,
        reason=str(told.get("reason") or ""),
        message=str(told.get("message") or ""),
        exit_code=told.get("exitCode"),
        image=str(given.get("image") or ""),
    )


def placed_badly(pod: Pod) -> Container | None:
    """The init container that made no run directory of it."""
    return next((one for one in pod.containers if one.name == PLACE and one.exit_code), None)


def _conditions(status: Json) -> tuple[Condition, ...]:
    return tuple(
        Condition(*(str(one.get(name) or "") for name in ("type", "status", "reason", "message")))
        for one in status.get("conditions") or ()
    )


def _part(given: Json, name: str) -> Json:
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}
