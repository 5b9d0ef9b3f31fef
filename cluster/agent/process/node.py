"""Which node of a run this agent stands on: told by whoever started the agents, one node when nobody says.

The agent of node 0 is the leader: it holds the lock and writes the record. The workers carry out its commands.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import ClusterError

NODES = "TUNEYARD_NODES"
"""The names of all nodes of the run, by rank, with commas between them."""
NODE_RANK = "TUNEYARD_NODE_RANK"
HEAD = "TUNEYARD_HEAD"
"""A host name or address of node 0 that every node can reach."""
PORT = "TUNEYARD_PORT"
"""The first port to try for the rendezvous on node 0."""
GENERATION = "TUNEYARD_GENERATION"
"""One life of the scheduler's job, the same on all its nodes and never used again, e.g. job id and restart count."""
_FIRST_PORT = 23456


@dataclass(frozen=True)
class Node:
    """One node among those of a run."""

    names: tuple[str, ...]
    rank: int = 0
    head: str = "localhost"
    first_port: int = _FIRST_PORT
    generation: str = ""

    @property
    def name(self) -> str:
        """What the scheduler calls this node; the host name when there is none."""
        return self.names[self.rank]

    @property
    def alone(self) -> bool:
        """Whether the run has no other node."""
        return len(self.names) == 1

    def ranks(self, ranks_per_node: int) -> range:
        """The training ranks that run here: nodes have theirs in order, so that a log's name tells its node."""
        return range(self.rank * ranks_per_node, (self.rank + 1) * ranks_per_node)


def this_node(environment: Mapping[str, str] = os.environ) -> Node:
    """The node that the environment describes; ClusterError when it contradicts itself."""
    names = tuple(name for name in environment.get(NODES, "").split(",") if name) or (socket.gethostname(),)
    rank, port = (_number(environment, name, default) for name, default in ((NODE_RANK, 0), (PORT, _FIRST_PORT)))
    if rank >= len(names):
        raise ClusterError(f"{NODE_RANK} is {rank}, and {NODES} names {len(names)}", "start the agents anew")
    return Node(names, rank, environment.get(HEAD) or names[0], port, environment.get(GENERATION, ""))


def free_port(first: int, tries: int = 200) -> int:
    """The first port from `first` on that nobody listens on here. Somebody may take it a moment later."""
    for port in range(first, first + tries):
        if _is_free(port):
            return port
    raise ClusterError(f"no free port among {first} to {first + tries - 1} on {socket.gethostname()}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a dead run may be waiting out its time
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ClusterError(f"{name} is {text!r}, not a number", "start the agents anew")
    return int(text)
