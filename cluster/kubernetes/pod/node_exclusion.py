"""Leaving a node that the restart policy keeps away from, so that the pod's replacement may come to another one.

The scheduler may put the replacement on the same node: it does not know why the pod left. So a pod of one index
leaves one node twice in a submission, and then stays there with a warning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.kubernetes.pod.membership.heartbeat import PODS
from cluster.kubernetes.pod.membership.identity import PodIdentity
from cluster.kubernetes.pod.membership.rendezvous import node_of
from cluster.run.restart_policy import exclusions
from rundir.attempts import Exclusion, read_attempts
from rundir.errors import TuneyardError
from rundir.files import read_json_or_empty, write_json
from rundir.quantities import count

MOST_MOVES = 2


class NodeExclusion:
    """Whether this pod may stay where it is."""

    def __init__(self, run_dir: Path, identity: PodIdentity, say: Callable[[str], None]) -> None:
        self._run_dir, self._identity, self._say = run_dir, identity, say
        self._path = run_dir / PODS / f"{identity.index}-moves.json"
        self._stays = False

    def must_move(self) -> bool:
        """Whether the pod has to leave for another node; it is counted as having left then."""
        if self._stays or (exclusion := self._exclusion()) is None:
            return False
        why = f"the restart policy keeps away from node {self._identity.node}: {exclusion.evidence}"
        moves = self._moves()
        if moves < MOST_MOVES and self._count(moves + 1):
            self._say(f"{why}; leaving for another node")
            return True
        self._stays = True
        self._say(f"warning: {why}; the scheduler put this pod here {count(moves, 'time')} again, so it stays")
        return False

    def _exclusion(self) -> Exclusion | None:
        found = exclusions(read_attempts(self._run_dir), time.time())
        return next((one for one in found if node_of(one.node) == self._identity.node), None)

    def _moves(self) -> int:
        kept = self._kept().get(self._identity.node)
        return kept if isinstance(kept, int) else 0

    def _kept(self) -> dict[str, Any]:
        given = read_json_or_empty(self._path)
        moves = given.get("moves")
        return moves if given.get("submitted") == self._identity.submitted and isinstance(moves, dict) else {}

    def _count(self, moves: int) -> bool:
        """Whether the move could be counted: one that is not could go on for ever."""
        counted = {"submitted": self._identity.submitted, "moves": self._kept() | {self._identity.node: moves}}
        try:
            write_json(self._path, counted)
        except TuneyardError as error:
            self._say(str(error))
            return False
        return True
