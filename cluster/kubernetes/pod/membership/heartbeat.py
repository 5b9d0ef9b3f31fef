"""Heartbeats of pods: one small file per pod, rewritten all the time while the pod lives.

Clocks are never compared: a pod lives for as long as its file changes, by the reader's own monotonic clock. Two pods
may have one index for a while, as when a lost node's pod is not quite dead. Each takes an epoch above the one that it
finds in the file (a fencing token): the pod with the lower epoch has been replaced, and leaves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.liveness import HeartbeatWriter, LivenessTimeout
from rundir.files import atomic_write, read_json_of_other_node

PODS = "pods"
WAITING, SERVING, LEFT = "waiting", "serving", "left"
WAITING_BEAT_SECONDS = 2.0
SERVING_BEAT_SECONDS = 10.0
TIMEOUT_SECONDS = 60.0
"""A pod whose file has not changed for so long does not count. Storage may show a change half a minute late."""
_KEYS = {"epoch": "claim", "awaits_workers": "calls"}
"""Keys in the file, where earlier versions called a field otherwise: pods of one run may come from two images."""
_TRIES, _TRY_SECONDS = 20, 0.2


@dataclass(frozen=True)
class Heartbeat:
    """What one pod writes. `generation` is the rendezvous that its agent runs for, or ran for last."""

    pod: str
    node: str
    state: str = WAITING
    generation: str | None = None
    beat: int = 0
    name: str = ""
    epoch: int = 0
    awaits_workers: bool = False
    """Of the leader: no agent leads the run now, so workers end what is left of an earlier rendezvous at once."""


def heartbeat_path(run_dir: Path, index: int) -> Path:
    """The file of the pod with that index."""
    return run_dir / PODS / f"{index}.json"


def read_heartbeat(run_dir: Path, index: int) -> Heartbeat | None:
    """The newest heartbeat; None when there is none, or half of one."""
    given = read_json_of_other_node(heartbeat_path(run_dir, index))
    keys = {one.name: _KEYS.get(one.name, one.name) for one in fields(Heartbeat)}
    known = {name: given[key] for name, key in keys.items() if key in given}
    try:
        return Heartbeat(**known)
    except TypeError:
        return None


def as_json(heartbeat: Heartbeat) -> dict[str, Any]:
    """The heartbeat as its file has it."""
    return {_KEYS.get(name, name): value for name, value in asdict(heartbeat).items()}


class OwnHeartbeat:
    """This pod's heartbeat. A failure to write it is logged, and ends nothing."""

    def __init__(self, run_dir: Path, identity: PodIdentity, say: Callable[[str], None]) -> None:
        self._path = heartbeat_path(run_dir, identity.index)
        self._run_dir, self._identity = run_dir, identity
        last = self._found()
        epoch = 0 if last is None else last.epoch + (last.pod != identity.uid)
        first = Heartbeat(identity.uid, identity.node, name=identity.name, epoch=epoch)
        self._writer = HeartbeatWriter(first, self._write, beat_seconds, say)

    @property
    def now(self) -> Heartbeat:
        """The newest one."""
        return self._writer.sent

    def _found(self) -> Heartbeat | None:
        """The last heartbeat with this index; a file that is there and cannot be read is read again for a while."""
        for _ in range(_TRIES):
            if (last := read_heartbeat(self._run_dir, self._identity.index)) is not None or self._is_blank():
                return last
            time.sleep(_TRY_SECONDS)
        return None

    def _is_blank(self) -> bool:
        """Whether no pod had this index yet: readers create the file empty (`read_json_of_other_node`)."""
        try:
            return self._path.stat().st_size == 0
        except OSError:
            return True

    def show(self, now: float, **changed: Any) -> None:
        """Writes changed fields at once."""
        if (heartbeat := replace(self.now, **changed)) == self.now:
            self.beat(now)
        elif self.replaced() is None:
            self._writer.try_to_send(heartbeat, now)

    def beat(self, now: float) -> None:
        """Writes the next beat, if it is due."""
        if self._writer.is_due(now) and self.replaced() is None:
            self._writer.beat(now)

    def replaced(self) -> Heartbeat | None:
        """The pod that has taken this one's index, if there is one."""
        seen = read_heartbeat(self._run_dir, self._identity.index)
        if seen is None or seen.pod == self._identity.uid:
            return None
        newer = (seen.epoch, seen.pod) > (self.now.epoch, self.now.pod)
        return seen if newer else None

    def _write(self, heartbeat: Heartbeat) -> None:
        try:
            write_beside(self._path, as_json(heartbeat))
        except OSError as error:
            words = f"{self._path}: cannot be written: {error.strerror}; the other pods may not see this one"
            raise ClusterError(words) from error


def beat_seconds(heartbeat: Heartbeat) -> float:
    """How long after this heartbeat the next one is due."""
    return WAITING_BEAT_SECONDS if heartbeat.state == WAITING else SERVING_BEAT_SECONDS


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


class Peer:
    """Another pod, as seen through its heartbeats."""

    def __init__(self) -> None:
        self.heartbeat: Heartbeat | None = None
        self._beats = self._timed_out = False
        self._timeout = LivenessTimeout(TIMEOUT_SECONDS)

    def look(self, seen: Heartbeat | None, now: float) -> None:
        """Takes in the newest heartbeat; one of a lower epoch is a late write of a pod that was replaced."""
        last = self.heartbeat
        if seen is not None and (last is None or (seen.epoch, seen.pod) >= (last.epoch, last.pod)):
            same = last is not None and seen.pod == last.pod
            self._beats = same and (self._beats or seen != last)
            self.heartbeat = seen
        self._timed_out = self._timeout.has_passed(self.heartbeat, now)

    @property
    def lives(self) -> bool:
        """Whether its heartbeat was seen to change within the timeout; a file that a dead pod left never does."""
        return self._beats and not self._timed_out

    @property
    def waits(self) -> bool:
        """Whether the pod lives and waits for a rendezvous."""
        return self.lives and self.heartbeat is not None and self.heartbeat.state == WAITING


class Peers:
    """Other pods of the run, by index."""

    def __init__(self, run_dir: Path, indices: range) -> None:
        self.by_index = {index: Peer() for index in indices}
        self._run_dir = run_dir

    def look(self, now: float) -> None:
        """Reads all their heartbeats."""
        for index, peer in self.by_index.items():
            peer.look(read_heartbeat(self._run_dir, index), now)

    def missing(self) -> list[int]:
        """The indices of pods that do not wait for a rendezvous."""
        return [index for index, peer in self.by_index.items() if not peer.waits]
