"""The rendezvous record: written by pod 0 once all pods wait; every pod named in it starts its agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.agent.attempt.restart import SUBMITTED
from cluster.agent.multinode.leader import RELEASED
from cluster.agent.process.launch import ONLY_WHAT_FOLLOWS
from cluster.agent.process.node import GENERATION, HEAD, NODE_RANK, NODES, PORT
from cluster.kubernetes.pod.membership.heartbeat import PODS
from cluster.kubernetes.pod.membership.identity import PodIdentity
from rundir.files import read_json_of_other_node, write_json

RENDEZVOUS = "gathering.json"
"""Named as in earlier versions: pods of one run may come from two images while it is upgraded."""
NODE_MARK = "#"
"""Between a node's name and a pod's index, where several pods of a run share a node."""


@dataclass(frozen=True)
class Rendezvous:
    """The pods that run together, and their nodes, by index."""

    generation: str
    pods: tuple[str, ...]
    nodes: tuple[str, ...]
    address: str = ""
    """Of the leader; "" where only its name is known."""

    @property
    def leader(self) -> str:
        """The uid of the pod that wrote it."""
        return self.generation.rpartition(".")[0]


def write_rendezvous(run_dir: Path, rendezvous: Rendezvous) -> None:
    """Replaces the record of an earlier rendezvous; an error with its reason when it cannot be written."""
    write_json(run_dir / PODS / RENDEZVOUS, asdict(rendezvous))


def read_rendezvous(run_dir: Path) -> Rendezvous | None:
    """The newest rendezvous; None when there was none yet."""
    given = read_json_of_other_node(run_dir / PODS / RENDEZVOUS)
    try:
        address = str(given.get("address") or "")
        return Rendezvous(str(given["generation"]), tuple(given["pods"]), tuple(given["nodes"]), address)
    except (KeyError, TypeError):
        return None


def node_names(nodes: Sequence[str]) -> tuple[str, ...]:
    """The agents' names for these nodes: Kubernetes' own, made different where pods share a node."""
    times = Counter(nodes)
    return tuple(f"{node}{NODE_MARK}{index}" if times[node] > 1 else node for index, node in enumerate(nodes))


def node_of(name: str) -> str:
    """Kubernetes' name for a node that agents speak of."""
    return name.partition(NODE_MARK)[0]


def agent_environment(identity: PodIdentity, rendezvous: Rendezvous, submitted: float) -> dict[str, str]:
    """Variables of this pod's agent. A leader without its workers only exports and evaluates."""
    variables = {
        ONLY_WHAT_FOLLOWS: "1" if len(rendezvous.pods) < identity.count else "",
        RELEASED: "",
        NODES: ",".join(rendezvous.nodes),
        NODE_RANK: str(identity.index),
        HEAD: rendezvous.address or identity.leader,
        GENERATION: rendezvous.generation,
        SUBMITTED: repr(submitted),
    }
    return variables | ({PORT: identity.port} if identity.port else {})
