"""The head's word that all pods are here: from it each pod knows its place, and starts its agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.agent.crew import RELEASED
from cluster.agent.launch import ONLY_WHAT_FOLLOWS
from cluster.agent.node import GENERATION, HEAD, NODE_RANK, NODES, PORT
from cluster.agent.restarts import SUBMITTED
from cluster.kubernetes.pod.membership.heartbeat import PODS
from cluster.kubernetes.pod.membership.identity import Post
from rundir.files import read_json_of_other_node, write_json

GATHERING = "gathering.json"
NODE_MARK = "#"
"""Between a node's name and a pod's index, where several pods of a run share a node."""


@dataclass(frozen=True)
class Gathering:
    """One life of the run: the pods that carry it, and the nodes that they are on, by index."""

    generation: str
    pods: tuple[str, ...]
    nodes: tuple[str, ...]
    address: str = ""
    """Of the head; "" where only its name is known."""

    @property
    def head(self) -> str:
        """The pod that called it."""
        return self.generation.rpartition(".")[0]


def write_gathering(run_dir: Path, gathering: Gathering) -> None:
    """Replaces the word of an earlier gathering; ClusterError when it cannot be written."""
    write_json(run_dir / PODS / GATHERING, asdict(gathering))


def read_gathering(run_dir: Path) -> Gathering | None:
    """The newest gathering; None when there was none yet."""
    given = read_json_of_other_node(run_dir / PODS / GATHERING)
    try:
        address = str(given.get("address") or "")
        return Gathering(str(given["generation"]), tuple(given["pods"]), tuple(given["nodes"]), address)
    except (KeyError, TypeError):
        return None


def node_names(nodes: Sequence[str]) -> tuple[str, ...]:
    """The agents' names for these nodes: Kubernetes' own, made different where pods share a node."""
    times = Counter(nodes)
    return tuple(f"{node}{NODE_MARK}{index}" if times[node] > 1 else node for index, node in enumerate(nodes))


def node_of(name: str) -> str:
    """Kubernetes' name for a node that agents speak of."""
    return name.partition(NODE_MARK)[0]


def agent_environment(post: Post, gathering: Gathering, submitted: float) -> dict[str, str]:
    """What the agent of this pod is told. One that is left of several only exports and evaluates."""
    told = {
        ONLY_WHAT_FOLLOWS: "1" if len(gathering.pods) < post.count else "",
        RELEASED: "",
        NODES: ",".join(gathering.nodes),
        NODE_RANK: str(post.index),
        HEAD: gathering.address or post.head,
        GENERATION: gathering.generation,
        SUBMITTED: repr(submitted),
    }
    return told | ({PORT: post.port} if post.port else {})
