"""Watching over training while it runs: a heartbeat that stops, and ranks that outlive a dead one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from socket import gethostname

from cluster.agent.children import Children, descendants
from cluster.agent.evidence import Evidence, tail
from cluster.agent.launch import Launch
from cluster.agent.ranks import Rank, condition, dump_stacks, ranks_in, where_in
from cluster.agent.watch import HeartbeatWatch, Stall
from cluster.contract import Outcome
from cluster.rundir import read_progress

LINGER_SECONDS = 3.0
_LOOK_SECONDS = 0.5
_TORCHRUN_ENDS_RANKS = "closing signal"
_NAMED_RANKS = 8


class Oversight:
    """Looks at one training phase again and again. `hang` says what was found when it stood still."""

    def __init__(self, launch: Launch, run_dir: Path, attempt: int, log_dir: Path, say: Callable[[str], None]) -> None:
        self.hang = ""
        self.proofs: tuple[Evidence, ...] = ()
        self._say = say
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._watch = HeartbeatWatch(attempt, launch.hang_seconds, launch.start_seconds)
        limits = [limit for limit in (launch.hang_seconds, launch.start_seconds) if limit]
        self._look_seconds = min([_LOOK_SECONDS, *(limit / 10 for limit in limits)])
        self._next_look = 0.0
        self._ending_since: float | None = None

    def look(self, children: Children, now: float) -> None:
        """Ends everything when training hangs, and the ranks that would have torchrun wait for them."""
        if now < self._next_look:
            return
        self._next_look = now + self._look_seconds
        stall = self._watch.look(read_progress(self._run_dir), now)
        if stall is not None and not self.hang:
            self._investigate(stall)
            children.end_all()
        self._end_lingerers(children, now)

    def _investigate(self, stall: Stall) -> None:
        self._say(f"{stall.words}: taking stacks, and ending the attempt")
        ranks = ranks_in(self._log_dir, descendants(os.getpid()))
        stuck = {rank.number: condition(rank.pid) for rank in ranks}  # before the dump, of which ranks may die
        stacks = dump_stacks(ranks)
        others = {rank.number: where_in(stacks.get(rank.number, "")) for rank in ranks if not stuck[rank.number]}
        named = [f"rank {number} {what}" for number, what in [*stuck.items(), *others.items()] if what]
        self.hang = "; ".join([stall.words, *named[:_NAMED_RANKS]])
        self.proofs = tuple(_suspicion(rank, stuck[rank.number]) for rank in ranks if stuck[rank.number])

    def _end_lingerers(self, children: Children, now: float) -> None:
        """torchrun gives the peers of a dead rank 30 s, which they cannot use: they wait for it in a collective."""
        if self._ending_since is None:
            if _TORCHRUN_ENDS_RANKS in tail(self._log_dir / "train.log"):
                self._ending_since = now
        elif now - self._ending_since >= LINGER_SECONDS:
            lingering = ranks_in(self._log_dir, descendants(os.getpid()))
            for rank in lingering:
                children.kill(rank.pid)
            if lingering:
                self._say(f"killed {len(lingering)} ranks that waited for a dead one")


def _suspicion(rank: Rank, what: str) -> Evidence:
    return Evidence("stuck_rank", gethostname(), f"rank {rank.number} {what}", "suspect", Outcome.HANG)
