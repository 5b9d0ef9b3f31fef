"""The life of a pod of a run: waits for all pods, serves with an agent, and waits again, until the run is over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cluster.agent.children import Children
from cluster.agent.node import GENERATION
from cluster.errors import ClusterError
from cluster.kubernetes.pod.completion import FINISHED, end_of, grant, is_trained, submission_of, users_wish
from cluster.kubernetes.pod.leader import Head
from cluster.kubernetes.pod.membership.heartbeat import LEFT, SERVING, WAITING, OwnPresence
from cluster.kubernetes.pod.membership.identity import Post
from cluster.kubernetes.pod.membership.rendezvous import Gathering, agent_environment, read_gathering, write_gathering
from cluster.kubernetes.pod.node_exclusion import Placement
from cluster.kubernetes.pod.process.log import Words
from cluster.kubernetes.pod.process.signals import Signals
from cluster.kubernetes.pod.worker import Follower
from rundir.attempts import read_attempts
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, GAVE_UP, RESTART_ME

LOOK_SECONDS = 1.0
OVER_SECONDS = 10.0
"""For so long an agent may take to hear that the run is over."""
MOST_BROKEN_LIVES = 3
"""So many agents in a row that could not even open a record end the head's pod."""
_BROKEN_SECONDS = 10.0
_POLL_SECONDS = 0.1
Found = TypeVar("Found")


class Pod:
    """One pod from its first look to its exit code."""

    def __init__(self, run_dir: Path, post: Post, signals: Signals, words: Words) -> None:
        self._run_dir, self._post, self._signals, self._words = run_dir, post, signals, words
        self._own = OwnPresence(run_dir, post, words.say)
        self._placement = Placement(run_dir, post, words.say)
        self._head = Head(run_dir, post, words) if post.is_head else None
        self._follower = Follower(run_dir, post, words)
        self._children = Children(words.say)
        self._next_look = 0.0
        self._over_since: float | None = None
        self._broken_lives = 0

    def live(self) -> int:
        """The exit code of the pod."""
        os.environ[GENERATION] = f"{self._post.uid}.0"  # of whoever closes the records of an earlier life
        with self._children:
            while True:
                found = self._wait()
                if isinstance(found, int):
                    self._own.show(time.monotonic(), state=LEFT, calls=False)
                    return found
                self._serve(found)

    def _wait(self) -> Gathering | int:
        """The next life of the run, or the exit code when there is none for this pod."""
        self._next_look = 0.0
        if self._head is not None:
            self._head.begin()
        if not self._signals.leaving:
            self._own.show(time.monotonic(), state=WAITING, calls=False)
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
            return AGENT_FAILED if self._broken_lives >= MOST_BROKEN_LIVES else None
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
            self._words.waiting("storage", f"the run directory to be usable: {error}", now)
            return None

    def _look(self, now: float) -> Gathering | int | None:
        if self._has_lost_its_post():
            return RESTART_ME
        if (code := self._end()) is not None:
            return code
        alone = is_trained(self._run_dir, self._post.submitted)
        if alone and self._head is None:
            self._words.say("the run is trained, and pod 0 does the rest: giving this node back")
            return FINISHED
        if self._placement.must_move():
            return RESTART_ME
        gathering = self._head_look(self._head, now, alone) if self._head else self._follower.gathered(now)
        if gathering is not None:
            self._words.done_waiting()
        return gathering

    def _head_look(self, head: Head, now: float, alone: bool) -> Gathering | None:
        if not head.settled:
            head.settle(now, _BROKEN_SECONDS * self._broken_lives)
            return None  # what was settled may be the end
        self._own.show(now, calls=True)
        gathering = head.gathered(now, alone)
        if gathering is not None:  # shown first: who is called must not take us for the head of an older life
            self._own.show(now, state=SERVING, calls=False, generation=gathering.generation)
            try:
                write_gathering(self._run_dir, gathering)
            except TuneyardError:
                self._own.show(now, state=WAITING)
                raise
        return gathering

    def _end(self) -> int | None:
        """The run's exit code when it is over; a user's wish is granted here when no agent can."""
        code = end_of(self._run_dir, self._post.submitted)
        if code in (None, GAVE_UP) and users_wish(self._run_dir, self._post.submitted) is not None:
            if not grant(self._run_dir, self._post):
                return None  # who holds the lock may be about to
            code = end_of(self._run_dir, self._post.submitted)
        return code

    def _serve(self, gathering: Gathering) -> None:
        """Runs this node's agent through one life of the run."""
        os.environ[GENERATION] = gathering.generation  # of whoever closes its record if it dies without a word
        submitted = submission_of(self._run_dir, self._post.submitted)
        environment = {**os.environ, **agent_environment(self._post, gathering, submitted)}
        self._own.show(time.monotonic(), state=SERVING, generation=gathering.generation, calls=False)
        here = f"all {self._post.count} pods are here" if len(gathering.pods) > 1 else "no other pod is needed"
        self._words.say(f"{here}: serving life {gathering.generation}")
        command = [sys.executable, "-m", "cluster.agent", str(self._run_dir)]
        pid, self._over_since = self._children.start(command, environment, None), None
        while (code := self._children.exit_code(pid)) is None:
            now = time.monotonic()
            for number in self._signals.taken():
                self._children.tell(pid, number)
            self._looked(partial(self._watched, gathering), now)
            self._own.beat(now)
            time.sleep(_POLL_SECONDS)
        self._children.end_all()
        self._words.say(f"the agent has left with {code}")
        self._count_broken(gathering)

    def _watched(self, gathering: Gathering, now: float) -> None:
        """A file that is not as it should be must not end a run that trains."""
        try:
            self._watch(gathering, now)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ClusterError(repr(error)) from error

    def _watch(self, gathering: Gathering, now: float) -> None:
        """Looks after the agent: tells it what it cannot know, and ends it when its life is over."""
        words = ""
        if self._has_lost_its_post() and not self._signals.leaving:
            newest = read_gathering(self._run_dir)
            if newest is not None and newest.generation != gathering.generation:
                words = "another life of the run has begun"
            self._signals.add(signal.SIGTERM)
        if self._head is not None:
            if not self._signals.leaving:  # who leaves has all save, and the grace period ends it
                self._head.watch(gathering, now)
        else:
            words = words or self._follower.watch(gathering, now)
        if words := words or self._over_for_long(now):
            self._words.say(f"{words}: ending the agent")
            self._children.end_all()

    def _over_for_long(self, now: float) -> str:
        if end_of(self._run_dir, self._post.submitted) is None:
            self._over_since = None
            return ""
        self._over_since = now if self._over_since is None else self._over_since
        return "the run is over" if now - self._over_since >= OVER_SECONDS else ""

    def _has_lost_its_post(self) -> bool:
        newer = self._own.replaced()
        if newer is not None and not self._signals.leaving:
            self._words.say(f"pod {newer.name or newer.pod} has this post now")
        return newer is not None

    def _count_broken(self, gathering: Gathering) -> None:
        """An agent of the head that leaves no record cannot be judged by the policy: it is counted here."""
        if self._head is None:
            return
        try:
            records = read_attempts(self._run_dir)
        except OSError:
            return  # the storage is in trouble, and the agent as well
        if records and records[-1].generation == gathering.generation:
            self._broken_lives = 0
            return
        self._broken_lives += 1
        self._words.say(f"the agent could not begin an attempt ({self._broken_lives} of {MOST_BROKEN_LIVES})")
