"""Watching over training while it runs: a heartbeat that stops, ranks that outlive a dead one, nodes in trouble."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.agent.monitor.hang_detector import HeartbeatWatch, Stall
from cluster.agent.monitor.rank_stacks import Rank, condition, dump_stacks, ranks_in, where_in
from cluster.agent.multinode.leader import WorkerGroup
from cluster.agent.multinode.messages import HANG
from cluster.agent.process.children import Children, descendants
from cluster.agent.verdict.log_evidence import Evidence, tail
from rundir.outcome import Outcome
from rundir.plan import LaunchSpec
from rundir.progress import read_progress
from rundir.quantities import count

LINGER_SECONDS = 3.0
_LOOK_SECONDS = 0.5
_TORCHRUN_ENDS_RANKS = "closing signal"


@dataclass(frozen=True)
class TrainingContext:
    """One node's part of a training phase: where its ranks and its torchrun leave their words."""

    run_dir: Path
    attempt: int
    log_dir: Path
    torchrun_log: Path
    node: str
    ranks: range
    say: Callable[[str], None]

    def living(self) -> list[Rank]:
        """The ranks of this node that run."""
        return ranks_in(self.log_dir, descendants(os.getpid()), self.ranks)


class Oversight:
    """Looks at one node's ranks again and again.

    `ended` is True when it has ended them, `hang` says what was found when training stood still, `named` and
    `proofs` what each rank was doing then.
    """

    look_seconds = _LOOK_SECONDS

    def __init__(self, context: TrainingContext) -> None:
        self.ended = False
        self.hang = ""
        self.proofs: tuple[Evidence, ...] = ()
        self.named: list[tuple[bool, str]] = []
        self.context = context
        self._next_look = 0.0
        self._ending_since: float | None = None

    def look(self, children: Children, now: float, stopping: bool = False) -> None:
        """Ends everything when training cannot go on, and the ranks that would have torchrun wait for them.

        While the run is `stopping`, ranks that outlive torchrun's word are saving: a scheduler may have signalled
        torchrun, too.
        """
        if now < self._next_look:
            return
        self._next_look = now + self.look_seconds
        if not self.ended:
            self.judge(children, now, stopping)
        if not stopping:
            self._end_lingerers(children, now)

    def judge(self, children: Children, now: float, stopping: bool) -> None:
        """Ends training here when it must; what makes it so differs between the leader and its workers."""

    def end(self, children: Children) -> None:
        """Kills everything below the agent."""
        self.ended = True
        children.end_all()

    def investigate(self) -> None:
        """Takes stacks, and notes what each rank was doing. Ranks may die of it."""
        ranks = self.context.living()
        stuck = {rank.number: condition(rank.pid) for rank in ranks}  # before the dump, of which ranks may die
        stacks = dump_stacks(ranks)
        others = {rank.number: where_in(stacks.get(rank.number, "")) for rank in ranks if not stuck[rank.number]}
        self.named += [(True, f"rank {number} {what}") for number, what in stuck.items() if what]
        self.named += [(False, f"rank {number} {what}") for number, what in others.items() if what]
        self.proofs = tuple(self._suspicion(rank, stuck[rank.number]) for rank in ranks if stuck[rank.number])

    def _suspicion(self, rank: Rank, what: str) -> Evidence:
        return Evidence("stuck_rank", self.context.node, f"rank {rank.number} {what}", "suspect", Outcome.HANG)

    def _end_lingerers(self, children: Children, now: float) -> None:
        """torchrun gives the peers of a dead rank 30 s, which they cannot use: they wait for it in a collective."""
        if self._ending_since is None:
            if _TORCHRUN_ENDS_RANKS in tail(self.context.torchrun_log):
                self._ending_since = now
        elif now - self._ending_since >= LINGER_SECONDS:
            lingering = self.context.living()
            for rank in lingering:
                children.kill(rank.pid)
            if lingering:
                self.context.say(f"killed {count(len(lingering), 'rank')} that waited for a dead one")


class LeaderOversight(Oversight):
    """Decides about a hang for all nodes, and ends training here when another node cannot go on."""

    def __init__(self, context: TrainingContext, launch: LaunchSpec, workers: WorkerGroup) -> None:
        super().__init__(context)
        self._workers = workers
        self._trouble_since: float | None = None
        self._watch = HeartbeatWatch(context.attempt, launch.hang_seconds, launch.start_seconds)
        limits = [limit for limit in (launch.hang_seconds, launch.start_seconds) if limit]
        self.look_seconds = min([_LOOK_SECONDS, *(limit / 10 for limit in limits)])

    def judge(self, children: Children, now: float, stopping: bool) -> None:
        """Looks at the heartbeat, and at what the workers report."""
        stall = self._watch.look(read_progress(self.context.run_dir), now)
        if stall is not None:
            self._end_hang(stall, children)
        elif (trouble := self._workers.trouble(now)) and (self._workers.departed or not stopping):
            self._end_after(trouble, children, now)

    def _end_hang(self, stall: Stall, children: Children) -> None:
        self.context.say(f"{stall.words}: taking stacks, and ending the attempt")
        self.hang = stall.words
        self._workers.command(HANG)
        self.investigate()
        self.end(children)

    def _end_after(self, trouble: str, children: Children, now: float) -> None:
        """Our own ranks get a moment to find out for themselves what is wrong: they say it best."""
        if self._trouble_since is None:
            self._trouble_since = now
            self.context.say(f"another node cannot go on: {trouble}")
        elif now - self._trouble_since >= LINGER_SECONDS:
            self.end(children)
