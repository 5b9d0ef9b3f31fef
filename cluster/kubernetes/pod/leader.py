"""What only pod 0 does: settles what an earlier life left, gathers the pods, and misses those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.agent.aftermath import settle
from cluster.agent.invitation import Absence, write_absences
from cluster.errors import ClusterError
from cluster.kubernetes.pod.completion import clear_granted
from cluster.kubernetes.pod.membership.heartbeat import LEFT, WAITING, Others, Presence, Sight
from cluster.kubernetes.pod.membership.identity import Post
from cluster.kubernetes.pod.membership.rendezvous import Gathering, node_names
from cluster.kubernetes.pod.process.log import Words, numbers
from cluster.lock import AgentLock, LockHeldError
from rundir.attempts import AttemptRecord
from rundir.errors import RunDirError, TuneyardError
from rundir.outcome import StopReason
from rundir.plan import read_launch
from rundir.stop import read_stop, write_stop

PATIENCE_SECONDS = 3.0
"""For so long somebody may hold the lock in passing; who holds it longer is an agent of an earlier life."""
REPLACED_SECONDS = 15.0
"""A pod that lost its post has so long to save together with the others, if it lives."""
_LOCK_SECONDS = 0.2


class Head:
    """Pod 0 between two lives of the run, and beside its agent."""

    def __init__(self, run_dir: Path, post: Post, words: Words) -> None:
        self.others = Others(run_dir, range(1, post.count))
        self.settled = False
        self._run_dir, self._post, self._words = run_dir, post, words
        self._lives = 0
        self._go_on_at = 0.0
        self._locked_since: float | None = None
        self._asked = False
        self._missed: tuple[Absence, ...] = ()
        self._replaced_since: dict[int, float] = {}

    def begin(self) -> None:
        """A life has ended: what it left is settled before there is another one."""
        self.settled, self._locked_since, self._asked = False, None, False
        self._missed, self._replaced_since = (), {}

    def settle(self, now: float, least_seconds: float) -> None:
        """Has the newest record closed and judged, as soon as no agent lives; sets when the run may go on."""
        record: AttemptRecord | None = None
        try:
            with AgentLock(self._run_dir, _LOCK_SECONDS) as lock:
                if self._has_plan():
                    record = settle(self._run_dir, lock)
                clear_granted(self._run_dir, self._post.submitted)
        except LockHeldError as error:
            self._wait_for_lock(now, error)
            return
        self.settled = True
        self._go_on_at = now + max(self._backoff_seconds(record), least_seconds)

    def _backoff_seconds(self, record: AttemptRecord | None) -> float:
        """How long the policy has the next attempt wait; who submits again does not wait for the last time."""
        if record is None or self._post.submitted not in (None, record.submitted):
            return 0.0
        return record.decision.wait_seconds if record.decision.restarts else 0.0

    def _has_plan(self) -> bool:
        """Whether there is a plan to judge by; without one, the next attempt says what is wrong with it."""
        try:
            read_launch(self._run_dir)
        except RunDirError:
            return False
        return True

    def gathered(self, now: float, alone: bool = False) -> Gathering | None:
        """The next life, once every pod waits and the back-off has passed; `alone`: of this pod only."""
        self.others.look(now)
        if (missing := self.others.missing()) and not alone:
            kind = "pods" if len(missing) > 1 else "pod"
            self._words.waiting("pods", f"{kind} {numbers(missing)} of {self._post.count}", now)
            return None
        if now < self._go_on_at:
            self._words.waiting("back-off", f"{self._go_on_at - now:.0f} s before the next attempt", now)
            return None
        return self._called(alone)

    def _called(self, alone: bool) -> Gathering | None:
        sights = [] if alone else self.others.sights.values()
        shown = [sight.presence for sight in sights if sight.presence is not None]
        pods = (self._post.uid, *(presence.pod for presence in shown))
        nodes = node_names([self._post.node, *(presence.node for presence in shown)])
        try:
            with AgentLock(self._run_dir, _LOCK_SECONDS):
                clear_granted(self._run_dir, self._post.submitted)
        except LockHeldError:
            return None
        self._lives += 1
        return Gathering(f"{self._post.uid}.{self._lives}", pods, nodes, self._post.address)

    def watch(self, gathering: Gathering, now: float) -> None:
        """Tells the agent which followers are gone: it would have to find out by their silence."""
        if len(gathering.pods) < self._post.count:
            return  # it was left alone
        self.others.look(now)
        seen = {index: sight.presence for index, sight in self.others.sights.items() if sight.presence is not None}
        missed = tuple(absences(gathering, seen, self._replaced_for(gathering, now)))
        if missed == self._missed:
            return
        try:
            write_absences(self._run_dir, gathering.generation, missed)
        except TuneyardError as error:  # a full disk: then by their silence
            self._words.say(str(error))
        self._missed = missed

    def _replaced_for(self, gathering: Gathering, now: float) -> Callable[[int], float]:
        if read_stop(self._run_dir) is not None:  # all are saving, and the grace period ends it
            self._replaced_since = {}
        for index, sight in self.others.sights.items():
            if _is_replaced(sight, gathering.pods[index]):
                self._replaced_since.setdefault(index, now)
        return lambda index: now - self._replaced_since.get(index, now)

    def _wait_for_lock(self, now: float, error: ClusterError) -> None:
        if self._locked_since is None:
            self._locked_since = now
        if now - self._locked_since < PATIENCE_SECONDS:
            return
        self._words.waiting("lock", f"an agent of an earlier life to save and leave: {error.message}", now)
        if not self._asked and read_stop(self._run_dir) is None:
            write_stop(self._run_dir, StopReason.PREEMPTED, f"its pod was replaced by {self._post.name}", urgent=True)
        self._asked = True


def absences(gathering: Gathering, seen: Mapping[int, Presence], replaced_for: Callable[[int], float]) -> list[Absence]:
    """The followers that have gone from this life, by what their pods show."""
    found = []
    for index, shown in seen.items():
        if shown.pod != gathering.pods[index]:
            if replaced_for(index) >= REPLACED_SECONDS:
                found.append(Absence(index, f"its pod was replaced by {shown.name or shown.pod}", blameless=True))
        elif shown.state == LEFT:
            found.append(Absence(index, "its pod has left", blameless=True))
        elif shown.state == WAITING and shown.generation == gathering.generation:
            found.append(Absence(index, "its agent has ended"))
    return found


def _is_replaced(sight: Sight, pod: str) -> bool:
    return sight.presence is not None and sight.presence.pod != pod
