"""What each pod of a run shows the others: one small file per pod, rewritten all the time while the pod lives.

Nobody compares clocks: a pod lives for as long as its file changes, by the reader's own monotonic clock. Two pods may
hold one index for a while, as when a lost node's pod is not quite dead: each claims its post with a number above the
one that it found, and the lower claim yields.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cluster.agent.invitation import Silence
from cluster.kubernetes.pod.membership.identity import Post
from rundir.files import atomic_write, read_json_of_other_node

PODS = "pods"
WAITING, SERVING, LEFT = "waiting", "serving", "left"
WAITING_BEAT_SECONDS = 2.0
SERVING_BEAT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""A pod whose file has not changed for so long does not count. Storage may show a change half a minute late."""
_REPEAT_SECONDS = 60.0
_TRIES, _TRY_SECONDS = 20, 0.2


@dataclass(frozen=True)
class Presence:
    """What one pod shows. `generation` is the life that it serves, or served last."""

    pod: str
    node: str
    state: str = WAITING
    generation: str | None = None
    beat: int = 0
    name: str = ""
    claim: int = 0
    calls: bool = False
    """Of the head: nobody leads the run now. Whoever still serves an earlier life is to come back at once."""


def presence_path(run_dir: Path, index: int) -> Path:
    """Where the pod of that index shows itself."""
    return run_dir / PODS / f"{index}.json"


def read_presence(run_dir: Path, index: int) -> Presence | None:
    """What the pod shows now; None when there is nothing, or half of something."""
    given = read_json_of_other_node(presence_path(run_dir, index))
    known = {one.name: given[one.name] for one in fields(Presence) if one.name in given}
    try:
        return Presence(**known)
    except TypeError:
        return None


class OwnPresence:
    """This pod's file. Trouble in writing it is said, and ends nothing."""

    def __init__(self, run_dir: Path, post: Post, say: Callable[[str], None]) -> None:
        self._path = presence_path(run_dir, post.index)
        self._run_dir, self._post, self._say = run_dir, post, say
        last = self._found()
        claim = 0 if last is None else last.claim + (last.pod != post.uid)
        self.now = Presence(post.uid, post.node, name=post.name, claim=claim)
        self._next_beat = self._next_words = 0.0

    def _found(self) -> Presence | None:
        """Who had this post before; a file that is there and cannot be read is looked at again for a while."""
        for _ in range(_TRIES):
            if (last := read_presence(self._run_dir, self._post.index)) is not None or self._is_blank():
                return last
            time.sleep(_TRY_SECONDS)
        return None

    def _is_blank(self) -> bool:
        """Whether nobody has had this post: those who look for its pod have made the file, if it is there at all."""
        try:
            return self._path.stat().st_size == 0
        except OSError:
            return True

    def show(self, now: float, **changed: Any) -> None:
        """Shows what has changed, at once."""
        if any(getattr(self.now, name) != value for name, value in changed.items()):
            self.now = replace(self.now, **changed)
            self._next_beat = now
        self.beat(now)

    def beat(self, now: float) -> None:
        """Shows that this pod lives, if it is time to."""
        if now < self._next_beat or self.replaced() is not None:
            return
        self._next_beat = now + (WAITING_BEAT_SECONDS if self.now.state == WAITING else SERVING_BEAT_SECONDS)
        self.now = replace(self.now, beat=self.now.beat + 1)
        try:
            write_beside(self._path, asdict(self.now))
        except OSError as error:
            self._complain(now, error)

    def replaced(self) -> Presence | None:
        """The other pod that has this one's post now, if there is one."""
        seen = read_presence(self._run_dir, self._post.index)
        if seen is None or seen.pod == self._post.uid:
            return None
        newer = (seen.claim, seen.pod) > (self.now.claim, self.now.pod)
        return seen if newer else None

    def _complain(self, now: float, error: OSError) -> None:
        if now >= self._next_words:
            self._next_words = now + _REPEAT_SECONDS
            self._say(f"{self._path}: cannot be written: {error.strerror}; the other pods may not see this one")


def write_beside(path: Path, value: dict[str, Any]) -> None:
    """Replaces a small file without waiting for the disk; on a full one, writes into the place that it has already.

    Raises:
        OSError: neither was possible.
    """
    text = json.dumps(value) + "\n"
    try:
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, text, durable=False)
    except OSError as error:
        if not _overwritten(path, text):
            raise error from None


def _overwritten(path: Path, text: str) -> bool:
    try:
        with open(path, "r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
    except OSError:
        return False
    return True


class Sight:
    """Another pod as this one sees it over time."""

    def __init__(self) -> None:
        self.presence: Presence | None = None
        self._moved = self._silent = False
        self._silence = Silence(SILENCE_SECONDS)

    def look(self, seen: Presence | None, now: float) -> None:
        """Takes in what the pod shows now; an older claim is a pod that has lost its post."""
        last = self.presence
        if seen is not None and (last is None or (seen.claim, seen.pod) >= (last.claim, last.pod)):
            same = last is not None and seen.pod == last.pod
            self._moved = same and (self._moved or seen != last)
            self.presence = seen
        self._silent = self._silence.lasts_too_long(self.presence, now)

    @property
    def lives(self) -> bool:
        """Whether the pod was seen to change, and not long ago: what a dead pod left never does."""
        return self._moved and not self._silent

    @property
    def waits(self) -> bool:
        """Whether the pod lives and has nothing to do."""
        return self.lives and self.presence is not None and self.presence.state == WAITING


class Others:
    """All other pods of the run."""

    def __init__(self, run_dir: Path, indices: range) -> None:
        self.sights = {index: Sight() for index in indices}
        self._run_dir = run_dir

    def look(self, now: float) -> None:
        """Looks at all of them."""
        for index, sight in self.sights.items():
            sight.look(read_presence(self._run_dir, index), now)

    def missing(self) -> list[int]:
        """The pods that do not wait."""
        return [index for index, sight in self.sights.items() if not sight.waits]
