"""What only pod 0 does: finalizes what an earlier agent left, decides when all start, and reports departed workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.agent.attempt.finalize import settle
from cluster.agent.multinode.messages import DepartedWorker, write_departed
from cluster.errors import ClusterError
from cluster.kubernetes.pod.completion import clear_honored
from cluster.kubernetes.pod.membership.heartbeat import LEFT, WAITING, Heartbeat, Peer, Peers
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.kubernetes.pod.membership.rendezvous import Rendezvous, node_names
from cluster.kubernetes.pod.process.log import PodLog, numbers
from cluster.run.lock import AgentLock, LockHeldError
from rundir.attempts import AttemptRecord
from rundir.errors import RunDirError, TuneyardError
from rundir.outcome import StopReason
from rundir.plan import read_launch
from rundir.stop import read_stop, write_stop

PATIENCE_SECONDS = 3.0
"""A lock that is held for longer belongs to an agent of an earlier rendezvous."""
REPLACED_SECONDS = 15.0
"""A pod that was replaced has so long to save together with the others, if it lives."""
_LOCK_SECONDS = 0.2


class Leader:
    """Pod 0 while it waits, and beside its agent."""

    def __init__(self, run_dir: Path, identity: PodIdentity, log: PodLog) -> None:
        self.peers = Peers(run_dir, range(1, identity.count))
        self.finalized = False
        self._run_dir, self._identity, self._log = run_dir, identity, log
        self._rendezvous_count = 0
        self._go_on_at = 0.0
        self._locked_since: float | None = None
        self._asked_to_leave = False
        self._departed: tuple[DepartedWorker, ...] = ()
        self._replaced_since: dict[int, float] = {}

    def begin(self) -> None:
        """An agent has ended: its record is finalized before the next rendezvous."""
        self.finalized, self._locked_since, self._asked_to_leave = False, None, False
        self._departed, self._replaced_since = (), {}

    def finalize(self, now: float, least_seconds: float) -> None:
        """Has the newest record closed and judged, as soon as no agent lives; sets when the run may go on."""
        record: AttemptRecord | None = None
        try:
            with AgentLock(self._run_dir, _LOCK_SECONDS) as lock:
                if self._has_plan():
                    record = settle(self._run_dir, lock)
                clear_honored(self._run_dir, self._identity.submitted)
        except LockHeldError as error:
            self._wait_for_lock(now, error)
            return
        self.finalized = True
        self._go_on_at = now + max(self._backoff_seconds(record), least_seconds)

    def _backoff_seconds(self, record: AttemptRecord | None) -> float:
        """How long the policy has the next attempt wait; who submits again does not wait for the last time."""
        if record is None or self._identity.submitted not in (None, record.submitted):
            return 0.0
        return record.decision.wait_seconds if record.decision.restarts else 0.0

    def _has_plan(self) -> bool:
        """Whether there is a plan to judge by; without one, the next attempt says what is wrong with it."""
        try:
            read_launch(self._run_dir)
        except RunDirError:
            return False
        return True

    def next_rendezvous(self, now: float, alone: bool = False) -> Rendezvous | None:
        """The next rendezvous, once every pod waits and the back-off has passed; `alone`: of this pod only."""
        self.peers.look(now)
        if (missing := self.peers.missing()) and not alone:
            kind = "pods" if len(missing) > 1 else "pod"
            self._log.waiting("pods", f"{kind} {numbers(missing)} of {self._identity.count}", now)
            return None
        if now < self._go_on_at:
            self._log.waiting("back-off", f"{self._go_on_at - now:.0f} s before the next attempt", now)
            return None
        return self._begin_rendezvous(alone)

    def _begin_rendezvous(self, alone: bool) -> Rendezvous | None:
        peers = [] if alone else self.peers.by_index.values()
        heartbeat = [peer.heartbeat for peer in peers if peer.heartbeat is not None]
        pods = (self._identity.uid, *(heartbeat.pod for heartbeat in heartbeat))
        nodes = node_names([self._identity.node, *(heartbeat.node for heartbeat in heartbeat)])
        try:
            with AgentLock(self._run_dir, _LOCK_SECONDS):
                clear_honored(self._run_dir, self._identity.submitted)
        except LockHeldError:
            return None
        self._rendezvous_count += 1
        return Rendezvous(f"{self._identity.uid}.{self._rendezvous_count}", pods, nodes, self._identity.address)

    def watch(self, rendezvous: Rendezvous, now: float) -> None:
        """Tells the agent which workers have departed, before its own timeout would."""
        if len(rendezvous.pods) < self._identity.count:
            return  # it was left alone
        self.peers.look(now)
        seen = {index: peer.heartbeat for index, peer in self.peers.by_index.items() if peer.heartbeat is not None}
        departed = tuple(departed_workers(rendezvous, seen, self._replaced_for(rendezvous, now)))
        if departed == self._departed:
            return
        try:
            write_departed(self._run_dir, rendezvous.generation, departed)
        except TuneyardError as error:  # a full disk: then by its own timeout
            self._log.info(str(error))
        self._departed = departed

    def _replaced_for(self, rendezvous: Rendezvous, now: float) -> Callable[[int], float]:
        if read_stop(self._run_dir) is not None:  # all are saving, and the grace period ends it
            self._replaced_since = {}
        for index, peer in self.peers.by_index.items():
            if _is_replaced(peer, rendezvous.pods[index]):
                self._replaced_since.setdefault(index, now)
        return lambda index: now - self._replaced_since.get(index, now)

    def _wait_for_lock(self, now: float, error: ClusterError) -> None:
        if self._locked_since is None:
            self._locked_since = now
        if now - self._locked_since < PATIENCE_SECONDS:
            return
        self._log.waiting("lock", f"an agent of an earlier rendezvous to save and leave: {error.message}", now)
        if not self._asked_to_leave and read_stop(self._run_dir) is None:
            write_stop(
                self._run_dir, StopReason.PREEMPTED, f"its pod was replaced by {self._identity.name}", urgent=True
            )
        self._asked_to_leave = True


def departed_workers(
    rendezvous: Rendezvous, seen: Mapping[int, Heartbeat], replaced_for: Callable[[int], float]
) -> list[DepartedWorker]:
    """The workers that have departed since the rendezvous, by their pods' heartbeats."""
    found = []
    for index, heartbeat in seen.items():
        if heartbeat.pod != rendezvous.pods[index]:
            if replaced_for(index) >= REPLACED_SECONDS:
                found.append(DepartedWorker(index, f"its pod was replaced by {heartbeat.name or heartbeat.pod}", True))
        elif heartbeat.state == LEFT:
            found.append(DepartedWorker(index, "its pod has left", was_evicted=True))
        elif heartbeat.state == WAITING and heartbeat.generation == rendezvous.generation:
            found.append(DepartedWorker(index, "its agent has ended"))
    return found


def _is_replaced(peer: Peer, pod: str) -> bool:
    return peer.heartbeat is not None and peer.heartbeat.pod != pod
