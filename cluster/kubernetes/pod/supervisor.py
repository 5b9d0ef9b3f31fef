"""The first process of a pod: waits for all pods, runs this node's agent, and waits again, until the run is over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cluster.agent.process.children import Children
from cluster.agent.process.node import GENERATION
from cluster.errors import ClusterError
from cluster.kubernetes.pod.completion import (
    FINISHED,
    exit_code_of_run,
    honor_stop,
    is_trained,
    stop_request,
    submission_of,
)
from cluster.kubernetes.pod.leader import Leader
from cluster.kubernetes.pod.membership.heartbeat import LEFT, SERVING, WAITING, OwnHeartbeat
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.kubernetes.pod.membership.rendezvous import (
    Rendezvous,
    agent_environment,
    read_rendezvous,
    write_rendezvous,
)
from cluster.kubernetes.pod.node_exclusion import NodeExclusion
from cluster.kubernetes.pod.process.log import PodLog
from cluster.kubernetes.pod.process.signals import Signals
from cluster.kubernetes.pod.worker import Worker
from rundir.attempts import read_attempts
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, GAVE_UP, RESTART_ME

LOOK_SECONDS = 1.0
OVER_SECONDS = 10.0
"""For so long an agent may take to hear that the run is over."""
MOST_BROKEN_AGENTS = 3
"""So many agents in a row that could not even open a record end the leader's pod."""
_BROKEN_SECONDS = 10.0
_POLL_SECONDS = 0.1
Found = TypeVar("Found")


class Supervisor:
    """One pod, from its start to its exit code."""

    def __init__(self, run_dir: Path, identity: PodIdentity, signals: Signals, log: PodLog) -> None:
        self._run_dir, self._identity, self._signals, self._log = run_dir, identity, signals, log
        self._own = OwnHeartbeat(run_dir, identity, log.info)
        self._node_exclusion = NodeExclusion(run_dir, identity, log.info)
        self._leader = Leader(run_dir, identity, log) if identity.is_leader else None
        self._worker = Worker(run_dir, identity, log)
        self._children = Children(log.info)
        self._next_look = 0.0
        self._over_since: float | None = None
        self._broken_agents = 0

    def run(self) -> int:
        """The exit code of the pod."""
        os.environ[GENERATION] = f"{self._identity.uid}.0"  # of whoever closes the records of an earlier rendezvous
        with self._children:
            while True:
                found = self._wait()
                if isinstance(found, int):
                    self._own.show(time.monotonic(), state=LEFT, awaits_workers=False)
                    return found
                self._run_agent(found)

    def _wait(self) -> Rendezvous | int:
        """The next rendezvous, or the exit code when there is none for this pod."""
        self._next_look = 0.0
        if self._leader is not None:
            self._leader.begin()
        if not self._signals.leaving:
            self._own.show(time.monotonic(), state=WAITING, awaits_workers=False)
        while True:
            now = time.monotonic()
            if (code := self._reason_to_leave()) is not None:
                return code
            self._children.reap()
            self._signals.taken()
            if (found := self._looked(self._look, now)) is not None:
                return found
            self._own.beat(now)
            time.sleep(_POLL_SECONDS)

    def _reason_to_leave(self) -> int | None:
        if not self._signals.leaving:
            return AGENT_FAILED if self._broken_agents >= MOST_BROKEN_AGENTS else None
        try:
            over = self._end()
        except (OSError, TuneyardError):
            over = None
        return RESTART_ME if over is None else over

    def _looked(self, look: Callable[[float], Found], now: float) -> Found | None:
        """What a look into the run directory finds, when it is time for one. Trouble with it may pass."""
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_SECONDS
        try:
            return look(now)
        except (OSError, TuneyardError) as error:
            self._log.waiting("storage", f"the run directory to be usable: {error}", now)
            return None

    def _look(self, now: float) -> Rendezvous | int | None:
        if self._was_replaced():
            return RESTART_ME
        if (code := self._end()) is not None:
            return code
        alone = is_trained(self._run_dir, self._identity.submitted)
        if alone and self._leader is None:
            self._log.info("the run is trained, and pod 0 does the rest: giving this node back")
            return FINISHED
        if self._node_exclusion.must_move():
            return RESTART_ME
        leader, worker = self._leader, self._worker
        rendezvous = self._look_as_leader(leader, now, alone) if leader else worker.next_rendezvous(now)
        if rendezvous is not None:
            self._log.done_waiting()
        return rendezvous

    def _look_as_leader(self, leader: Leader, now: float, alone: bool) -> Rendezvous | None:
        if not leader.finalized:
            leader.finalize(now, _BROKEN_SECONDS * self._broken_agents)
            return None  # the record may say that the run is over
        self._own.show(now, awaits_workers=True)
        rendezvous = leader.next_rendezvous(now, alone)
        if rendezvous is not None:  # first: workers must not take us for the leader of an earlier one
            self._own.show(now, state=SERVING, awaits_workers=False, generation=rendezvous.generation)
            try:
                write_rendezvous(self._run_dir, rendezvous)
            except TuneyardError:
                self._own.show(now, state=WAITING)
                raise
        return rendezvous

    def _end(self) -> int | None:
        """The run's exit code when it is over; a stop request is honored here when no agent can."""
        code = exit_code_of_run(self._run_dir, self._identity.submitted)
        if code in (None, GAVE_UP) and stop_request(self._run_dir, self._identity.submitted) is not None:
            if not honor_stop(self._run_dir, self._identity):
                return None  # who holds the lock may be about to
            code = exit_code_of_run(self._run_dir, self._identity.submitted)
        return code

    def _run_agent(self, rendezvous: Rendezvous) -> None:
        """Runs this node's agent until it ends."""
        os.environ[GENERATION] = rendezvous.generation  # of whoever closes its record if it dies without a word
        submitted = submission_of(self._run_dir, self._identity.submitted)
        environment = {**os.environ, **agent_environment(self._identity, rendezvous, submitted)}
        self._own.show(time.monotonic(), state=SERVING, generation=rendezvous.generation, awaits_workers=False)
        here = f"all {self._identity.count} pods are here" if len(rendezvous.pods) > 1 else "no other pod is needed"
        self._log.info(f"{here}: starting the agent for {rendezvous.generation}")
        command = [sys.executable, "-m", "cluster.agent", str(self._run_dir)]
        pid, self._over_since = self._children.start(command, environment, None), None
        while (code := self._children.exit_code(pid)) is None:
            now = time.monotonic()
            for number in self._signals.taken():
                self._children.tell(pid, number)
            self._looked(partial(self._watched, rendezvous), now)
            self._own.beat(now)
            time.sleep(_POLL_SECONDS)
        self._children.end_all()
        self._log.info(f"the agent has left with {code}")
        self._count_broken_agent(rendezvous)

    def _watched(self, rendezvous: Rendezvous, now: float) -> None:
        """A file that is not as it should be must not end a run that trains."""
        try:
            self._watch(rendezvous, now)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ClusterError(repr(error)) from error

    def _watch(self, rendezvous: Rendezvous, now: float) -> None:
        """Watches beside the agent: tells it what it cannot know, and ends it when it cannot go on."""
        reason = ""
        if self._was_replaced() and not self._signals.leaving:
            newest = read_rendezvous(self._run_dir)
            if newest is not None and newest.generation != rendezvous.generation:
                reason = "another rendezvous has taken place"
            self._signals.add(signal.SIGTERM)
        if self._leader is not None:
            if not self._signals.leaving:  # who leaves has all save, and the grace period ends it
                self._leader.watch(rendezvous, now)
        else:
            reason = reason or self._worker.watch(rendezvous, now)
        if reason := reason or self._is_over_for_long(now):
            self._log.info(f"{reason}: ending the agent")
            self._children.end_all()

    def _is_over_for_long(self, now: float) -> str:
        if exit_code_of_run(self._run_dir, self._identity.submitted) is None:
            self._over_since = None
            return ""
        self._over_since = now if self._over_since is None else self._over_since
        return "the run is over" if now - self._over_since >= OVER_SECONDS else ""

    def _was_replaced(self) -> bool:
        newer = self._own.replaced()
        if newer is not None and not self._signals.leaving:
            self._log.info(f"pod {newer.name or newer.pod} has this pod's index now")
        return newer is not None

    def _count_broken_agent(self, rendezvous: Rendezvous) -> None:
        """An agent of the leader that leaves no record cannot be judged by the policy: it is counted here."""
        if self._leader is None:
            return
        try:
            records = read_attempts(self._run_dir)
        except OSError:
            return  # the storage is in trouble, and the agent as well
        if records and records[-1].generation == rendezvous.generation:
            self._broken_agents = 0
            return
        self._broken_agents += 1
        self._log.info(f"the agent could not begin an attempt ({self._broken_agents} of {MOST_BROKEN_AGENTS})")
