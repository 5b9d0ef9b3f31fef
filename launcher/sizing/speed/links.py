"""Seconds of collectives by algorithm and link: NVLink or PCIe inside a node, the network between nodes.

Volumes are those of ring algorithms, which NCCL's others do not beat for large messages: of S bytes, an all-gather
or a reduce-scatter over n ranks moves S (n-1)/n through every rank, an all-reduce twice that (Patarasuk and Yuan
2009). Between nodes, every GPU's network adapter carries its share of what the node receives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.sizing.gpus import Gpu
from launcher.sizing.speed.kernels import FITTED, Fitted

LATENCY_SECONDS = 12e-6
"""One step of a collective: kernel launch and hop."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that share a collective.

    Attributes:
        ranks: How many.
        per_node: How many of them share a node.
        link: Bytes per second and rank inside a node.
        network: Bytes per second and rank between nodes.
    """

    ranks: int
    per_node: int
    link: float
    network: float

    def gather(self, size: float) -> float:
        """Seconds of an all-gather of `size` bytes in total, or of a reduce-scatter of as much."""
        if self.ranks == 1 or size <= 0:
            return 0.0
        inside = min(self.ranks, self.per_node)
        nodes = math.ceil(self.ranks / inside)
        in_node = size * (inside - 1) / inside / self.link if inside > 1 else 0.0
        between = size * (nodes - 1) / nodes / (inside * self.network)
        return max(in_node, between) + LATENCY_SECONDS * math.log2(self.ranks)

    def reduce(self, size: float) -> float:
        """Seconds of an all-reduce of `size` bytes."""
        return 2 * self.gather(size)

    def exchange(self, size: float) -> float:
        """Seconds of an all-to-all in which every rank sends `size` bytes."""
        if self.ranks == 1:
            return 0.0
        inside = min(self.ranks, self.per_node)
        away = size * (self.ranks - inside) / self.ranks / self.network
        near = size * (inside - 1) / self.ranks / self.link
        return max(away, near) + LATENCY_SECONDS


def group(gpu: Gpu, ranks: int, stride: int, gpus_per_node: int, fitted: Fitted = FITTED) -> Group:
    """The group of `ranks` ranks that lie `stride` apart; tensor-parallel ranks are the nearest."""
    return Group(
        ranks=ranks,
        per_node=max(1, gpus_per_node // stride),
        link=gpu.link_gb_s * 1e9 * fitted.link,
        network=gpu.nic_gbit / 8 * 1e9 * fitted.network,
    )


def exposed(seconds: float, beside: float, overlap: float) -> float:
    """What of a collective is waited for: the share that does not overlap, and what `beside` cannot hide."""
    return (1 - overlap) * seconds + max(0.0, overlap * seconds - beside)
