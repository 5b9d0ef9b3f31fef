"""The leader's side of a run on several nodes: commands to the workers, their reports, and who has departed.

On one node there is nobody to command: every call returns at once, and no file is written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.agent.multinode.messages import (
    CHECK,
    HANG,
    LEAVE,
    REST,
    TRAIN,
    Command,
    Report,
    read_departed,
    read_report,
    write_command,
)
from cluster.agent.process.node import Node, free_port
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.log_evidence import Evidence, left_node, lost_node
from cluster.agent.verdict.outcome import PhaseEnd
from cluster.liveness import HeartbeatWriter, LivenessTimeout
from rundir.errors import TuneyardError
from rundir.plan import LaunchSpec

RELEASED = "TUNEYARD_RELEASED"
"""A file by which whoever started the agents hears that the other nodes are done: `trained`, then `left`. Empty where
the other nodes find out by themselves, from the attempt's record."""
TRAINED, LEFT = "trained", "left"
REPORT_SECONDS = 30.0
"""How long workers have to report how training ended, after it has ended here."""
_HURRIED_SECONDS = 8.0
_LOOK_SECONDS = 1.0
_POLL_SECONDS = 0.1
_MOST_BEAT_SECONDS = 10.0
_KILLED = "killed by "


def beat_seconds(timeout_seconds: float) -> float:
    """How often a heartbeat is due, so that a timeout of that length is never passed by a process that lives."""
    return min(_MOST_BEAT_SECONDS, timeout_seconds / 6)


class WorkerGroup:
    """The workers of this leader.

    `departed` names nodes that are gone, each with a message; `evicted` those among them that were taken away.
    """

    def __init__(self, run_dir: Path, node: Node, say: Callable[[str], None] = lambda message: None) -> None:
        self.departed: dict[str, str] = {}
        self.evicted: set[str] = set()
        self.released = False
        self.node = node
        self._run_dir = run_dir
        self._timeout_seconds = 0.0
        self._commands = HeartbeatWriter(
            Command(node.generation),
            lambda command: write_command(run_dir, command),
            lambda command: beat_seconds(self._timeout_seconds),
            say,
        )
        self._task = self._commands.sent
        self._timeouts: dict[int, LivenessTimeout] = {}
        self._next_look = self._next_departed = 0.0
        self._trouble = ""

    @property
    def say(self) -> Callable[[str], None]:
        """Where this side logs."""
        return self._commands.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._commands.say = say

    def command(self, name: str, attempt: int | None = None, endpoint: str = "") -> None:
        """Tells all workers what to do now.

        Raises:
            TuneyardError: the command cannot be written.
        """
        if self.node.alone:
            return
        last = self._commands.sent
        number = last.attempt if attempt is None else attempt
        command = Command(last.generation, last.sequence_number + 1, name, number, endpoint)
        if name in (CHECK, TRAIN):
            self._task, self._trouble = command, ""
            self._timeouts = {rank: LivenessTimeout(self._timeout_seconds) for rank in self._ranks()}
        self._commands.send(command, time.monotonic())

    def command_check(self, launch: LaunchSpec, attempt: int) -> None:
        """Has every worker run its health gate."""
        self._timeout_seconds = launch.silence_seconds
        self.departed, self.evicted = {}, set()
        self.command(CHECK, attempt)

    def command_train(self, attempt: int) -> str:
        """Has every worker start its part of training; gives where all ranks meet, "" on one node."""
        if self.node.alone:
            return ""
        endpoint = f"{self.node.head}:{free_port(self.node.first_port + attempt % 100)}"
        self.command(TRAIN, attempt, endpoint)
        return endpoint

    def beat(self) -> None:
        """Shows that the leader lives."""
        if not self.node.alone:
            self._commands.beat(time.monotonic())

    def trouble(self, now: float) -> str:
        """Why training cannot go on because of another node, "" when nothing is known."""
        if not self.node.alone and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._note_departed()
            self._trouble = "; ".join(message for rank in self._ranks() if (message := self._trouble_of(rank, now)))
        return self._trouble

    def collect(self, seconds: float, stop_requests: StopRequests | None = None) -> list[Report]:
        """What the workers report about their task. Who has not after so long has departed."""
        deadline = time.monotonic() + seconds
        while len(reports := self._done()) < len(self._ranks()) - len(self.departed):
            if stop_requests is not None and stop_requests.poll() is not None:
                return reports
            if time.monotonic() > deadline:
                self._miss(reports, seconds)
                break
            self.beat()
            self._look_for_departed()
            time.sleep(_POLL_SECONDS)
        return reports

    def end_training(self, own: PhaseEnd, hurried: bool) -> PhaseEnd:
        """Ends training on every node; the end of the phase as all nodes together saw it."""
        if self.node.alone:
            return own
        if self._commands.sent.name != HANG:  # which ends it, too, and not everybody may have read it yet
            self.command(REST)
        reports = self.collect(_HURRIED_SECONDS if hurried else REPORT_SECONDS)
        self.command(REST)
        return joint_end(own, reports, self.departed, self.evicted)

    @property
    def gives_back(self) -> bool:
        """Whether there are other nodes, and somebody can give them back."""
        return not self.node.alone and RELEASED in os.environ

    def release(self) -> None:
        """Gives the other nodes back: export and evaluation need the first one alone.

        Their agents leave, so no attempt can begin in this generation of the job any more.
        """
        self.say(f"training is done: {len(self._ranks())} of {len(self.node.names)} nodes are given back")
        self.released = True
        self._shut_down(TRAINED)

    def shut_down(self) -> None:
        """Has the workers exit. If the command cannot be written, they do after their timeout."""
        self._shut_down(LEFT)

    def _shut_down(self, state: str) -> None:
        try:
            self.command(LEAVE)
        except TuneyardError as error:
            self.say(str(error))
        if (path := os.environ.get(RELEASED)) and not self.node.alone:
            with contextlib.suppress(OSError):  # a full disk: the nodes stay until the job ends
                Path(path).write_text(state, encoding="ascii")

    def _ranks(self) -> range:
        return range(1, len(self.node.names))

    def _done(self) -> list[Report]:
        found = (read_report(self._run_dir, self._task, rank) for rank in self._ranks())
        return [report for report in found if report is not None and report.done]

    def _trouble_of(self, rank: int, now: float) -> str:
        name, report = self.node.names[rank], read_report(self._run_dir, self._task, rank)
        if report is not None and report.done:
            end = report.end
            failed = end is not None and end.exit_code != 0
            return f"{name}: {end.words or 'training failed there'}" if end is not None and failed else ""
        if self._timeouts[rank].has_passed(report and report.beat, now):
            self.departed[name] = f"no sign of {name} for {self._timeout_seconds:.0f} s"
        return self.departed.get(name, "")

    def _look_for_departed(self) -> None:
        if (now := time.monotonic()) >= self._next_departed:
            self._next_departed = now + _LOOK_SECONDS
            self._note_departed()

    def _note_departed(self) -> None:
        """Whoever started the agents may know that one has gone. What it has reported before counts all the same."""
        departed = read_departed(self._run_dir, self.node.generation)
        reported = {report.rank for report in self._done()} if departed else set()
        for worker in departed:
            name = self.node.names[worker.rank]
            if worker.rank not in reported and name not in self.departed:
                self.departed[name] = f"{name}: {worker.message}"
                self.evicted |= {name} if worker.was_evicted else set()

    def _miss(self, reports: Sequence[Report], seconds: float) -> None:
        reported = {report.rank for report in reports}
        for rank in self._ranks():
            if rank not in reported:
                name = self.node.names[rank]
                self.departed.setdefault(name, f"{name} did not report within {seconds:g} s")


def joint_end(
    own: PhaseEnd, reports: Sequence[Report], departed: dict[str, str], evicted: Collection[str] = ()
) -> PhaseEnd:
    """How training ended, from how it ended on each node: the message of whoever failed first, the proofs of all."""
    ends = [report.end for report in reports if report.end is not None]
    proofs = tuple(proof for end in [own, *ends] for proof in end.proofs)
    named = tuple(words for end in [own, *ends] for words in end.named)
    if own.exit_code == 0:
        return replace(own, proofs=proofs, named=named)
    gone = tuple(departed_evidence(departed, evicted))
    words = "; ".join(departed.values()) or _first_failure(own, reports)
    return replace(own, words=words, proofs=(*gone, *proofs), named=named)


def departed_evidence(departed: dict[str, str], evicted: Collection[str] = ()) -> list[Evidence]:
    """Nodes that are gone, as evidence: nobody is blamed for one that was taken away."""
    return [(left_node if name in evicted else lost_node)(name, message) for name, message in departed.items()]


def _first_failure(own: PhaseEnd, reports: Sequence[Report]) -> str:
    """A rank that was killed explains those that lost it; else the first to fail does."""
    failed = [(report.ended, report.end) for report in reports if report.end is not None and report.end.exit_code != 0]
    failed.sort(key=lambda item: item[0])
    by_themselves = [end for _, end in failed if not end.ended_by_agent]
    ends = [end for end in ([] if own.ended_by_agent else [own]) + by_themselves if end.words]
    killed = [end for end in ends if _KILLED in end.words]
    return next((end.words for end in [*killed, *ends]), own.words)
