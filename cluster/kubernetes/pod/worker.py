"""What every pod but the first does: comes when the head calls, and lets go of a life whose head is gone."""

from __future__ import annotations

from pathlib import Path

from cluster.kubernetes.pod.membership.heartbeat import WAITING, Others, Presence
from cluster.kubernetes.pod.membership.identity import Post
from cluster.kubernetes.pod.membership.rendezvous import Gathering, read_gathering
from cluster.kubernetes.pod.process.log import Words

LEAVE_SECONDS = 10.0
"""For so long an agent may take to hear that its life is over, where the head's pod is still the same."""


class Follower:
    """A pod between two lives of the run, and beside its agent."""

    def __init__(self, run_dir: Path, post: Post, words: Words) -> None:
        self._run_dir, self._post, self._words = run_dir, post, words
        self._heads = Others(run_dir, range(1))
        self._served: set[str] = set()
        self._over_since: float | None = None

    def gathered(self, now: float) -> Gathering | None:
        """The life that this pod is called to and has not served yet."""
        self._heads.look(now)
        gathering, post = read_gathering(self._run_dir), self._post
        if gathering is not None and gathering.generation not in self._served and _names(gathering, post):
            self._served.add(gathering.generation)
            self._over_since = None
            return gathering
        here = "pod 0 to gather" if self._heads.sights[0].lives else "pod 0 of"
        self._words.waiting(here, f"{here} {post.count} pods", now)
        return None

    def watch(self, gathering: Gathering, now: float) -> str:
        """Why the agent cannot go on, "" while it may. It would find out by the head's silence."""
        self._heads.look(now)
        sight = self._heads.sights[0]
        if (shown := sight.presence) is None or not has_ended(gathering, shown):
            self._over_since = None
            return ""
        if shown.pod != gathering.head:
            return f"the head's pod was replaced by {shown.name or shown.pod}"
        self._over_since = now if self._over_since is None else self._over_since
        return "the head's agent has ended" if now - self._over_since >= LEAVE_SECONDS else ""


def _names(gathering: Gathering, post: Post) -> bool:
    return len(gathering.pods) == post.count and gathering.pods[post.index] == post.uid


def has_ended(gathering: Gathering, head: Presence) -> bool:
    """Whether the head's pod, which may be another one by now, shows that nobody leads this life any more."""
    if head.state != WAITING or not head.calls:
        return False
    return head.pod != gathering.head or head.generation == gathering.generation
