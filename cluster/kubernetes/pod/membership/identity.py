"""Which pod of a run this is, by the variables that the chart sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.agent.attempt.restart import submission
from cluster.agent.process.node import HEAD, PORT
from cluster.errors import ClusterError

INDEX = "TUNEYARD_POD_INDEX"
COUNT = "TUNEYARD_NODES_COUNT"
UID = "TUNEYARD_POD_UID"
POD_NAME = "TUNEYARD_POD_NAME"
NODE_NAME = "TUNEYARD_NODE_NAME"
POD_ADDRESS = "TUNEYARD_POD_IP"
"""This pod's address: a name of pod 0 may still lead to its predecessor, as DNS answers are kept for a while."""
TERMINATION_LOG = "TUNEYARD_TERMINATION_LOG"
"""Where Kubernetes reads the termination message, if not at its usual place."""
_NEEDED = (INDEX, COUNT, UID, NODE_NAME)
_USUAL_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class PodIdentity:
    """One pod among those of a run; pod 0 is the leader."""

    index: int
    count: int
    uid: str
    name: str
    node: str
    leader: str = "localhost"
    """A host name of pod 0."""
    port: str = ""
    submitted: float | None = None
    termination_log: str = _USUAL_TERMINATION_LOG
    address: str = ""

    @property
    def is_leader(self) -> bool:
        """Whether this pod decides when all start together."""
        return self.index == 0


def pod_identity(environment: Mapping[str, str]) -> PodIdentity:
    """The pod that the environment describes; ClusterError when the chart that started it left something out."""
    if missing := [name for name in _NEEDED if not environment.get(name)]:
        raise ClusterError(f"{', '.join(missing)} not set: this is no pod of the chart", "install it with helm")
    index, count = (_number(environment, name) for name in (INDEX, COUNT))
    if index >= count:
        raise ClusterError(f"{INDEX} is {index}, and {COUNT} is {count}", "install the chart again")
    return PodIdentity(
        *(index, count, environment[UID], environment.get(POD_NAME) or f"pod {index}", environment[NODE_NAME]),
        *(environment.get(HEAD) or "localhost", environment.get(PORT) or ""),
        submission(environment) or None,
        environment.get(TERMINATION_LOG) or _USUAL_TERMINATION_LOG,
        _version_4(environment.get(POD_ADDRESS) or ""),
    )


def _version_4(address: str) -> str:
    """The address if it can stand before a port as it is."""
    return "" if ":" in address else address


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise ClusterError(f"{name} is {environment[name]!r}, not a number", "install the chart again")
    return int(environment[name])
