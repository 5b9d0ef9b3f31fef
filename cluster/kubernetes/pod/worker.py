"""What every pod but the first does: starts its agent at each rendezvous, and ends it when the leader is gone."""

from __future__ import annotations

from pathlib import Path

from cluster.kubernetes.pod.membership.heartbeat import WAITING, Heartbeat, Peers
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.kubernetes.pod.membership.rendezvous import Rendezvous, read_rendezvous
from cluster.kubernetes.pod.process.log import PodLog

LEAVE_SECONDS = 10.0
"""For so long this agent may take to hear that the leader's has ended, where the leader's pod is still the same."""


class Worker:
    """A pod while it waits, and beside its agent."""

    def __init__(self, run_dir: Path, identity: PodIdentity, log: PodLog) -> None:
        self._run_dir, self._identity, self._log = run_dir, identity, log
        self._leader = Peers(run_dir, range(1))
        self._joined: set[str] = set()
        self._over_since: float | None = None

    def next_rendezvous(self, now: float) -> Rendezvous | None:
        """The rendezvous that names this pod, if it has not run for that yet."""
        self._leader.look(now)
        rendezvous, identity = read_rendezvous(self._run_dir), self._identity
        if rendezvous is not None and rendezvous.generation not in self._joined and _names(rendezvous, identity):
            self._joined.add(rendezvous.generation)
            self._over_since = None
            return rendezvous
        here = "pod 0 to gather" if self._leader.by_index[0].lives else "pod 0 of"
        self._log.waiting(here, f"{here} {identity.count} pods", now)
        return None

    def watch(self, rendezvous: Rendezvous, now: float) -> str:
        """Why the agent cannot go on, "" while it may. Its own timeout would find out later."""
        self._leader.look(now)
        peer = self._leader.by_index[0]
        if (heartbeat := peer.heartbeat) is None or not leads_no_more(rendezvous, heartbeat):
            self._over_since = None
            return ""
        if heartbeat.pod != rendezvous.leader:
            return f"the leader's pod was replaced by {heartbeat.name or heartbeat.pod}"
        self._over_since = now if self._over_since is None else self._over_since
        return "the leader's agent has ended" if now - self._over_since >= LEAVE_SECONDS else ""


def _names(rendezvous: Rendezvous, identity: PodIdentity) -> bool:
    return len(rendezvous.pods) == identity.count and rendezvous.pods[identity.index] == identity.uid


def leads_no_more(rendezvous: Rendezvous, leader: Heartbeat) -> bool:
    """Whether pod 0, which may be another one by now, says that no agent leads this rendezvous any more."""
    if leader.state != WAITING or not leader.awaits_workers:
        return False
    return leader.pod != rendezvous.leader or leader.generation == rendezvous.generation
