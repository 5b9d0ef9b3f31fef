"""The head's side of a run on several nodes: inviting the followers, hearing them, missing those that are gone.

On one node there is nobody to invite: every call returns at once, and no file is written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.agent.evidence import Evidence, left_node, lost_node
from cluster.agent.invitation import (
    CHECK,
    HANG,
    LEAVE,
    REST,
    TRAIN,
    Invitation,
    Report,
    Silence,
    read_absences,
    read_report,
    write_invitation,
)
from cluster.agent.node import Node, free_port
from cluster.agent.outcome import PhaseEnd
from cluster.agent.stopping import StopWishes
from rundir.errors import TuneyardError
from rundir.plan import LaunchSpec

RELEASED = "TUNEYARD_RELEASED"
"""A file by which whoever started the agents hears that the other nodes are done: `trained`, then `left`. Empty where
the other nodes find out by themselves, from the attempt's record."""
TRAINED, LEFT = "trained", "left"
REPORT_SECONDS = 30.0
"""How long followers have to say how training ended, after it has ended here."""
_HURRIED_SECONDS = 8.0
_LOOK_SECONDS = 1.0
_POLL_SECONDS = 0.1
_MOST_BEAT_SECONDS = 10.0
_KILLED = "killed by "


def beat_seconds(silence_seconds: float) -> float:
    """How often a sign of life is due, for a silence of that length to be noticed rightly."""
    return min(_MOST_BEAT_SECONDS, silence_seconds / 6)


class Crew:
    """The followers of this head.

    `lost` names nodes that are gone, each with the words for it; `left` those among them that were taken away.
    """

    def __init__(self, run_dir: Path, node: Node, say: Callable[[str], None] = lambda words: None) -> None:
        self.lost: dict[str, str] = {}
        self.left: set[str] = set()
        self.released = False
        self.node = node
        self.say = say
        self._run_dir = run_dir
        self._invitation = Invitation(node.generation)
        self._task = self._invitation
        self._silences: dict[int, Silence] = {}
        self._silence_seconds = 0.0
        self._next_look = self._next_beat = self._next_miss = 0.0
        self._trouble = ""

    def invite(self, word: str, attempt: int | None = None, endpoint: str = "") -> None:
        """Tells all followers what is wanted of them now."""
        if self.node.alone:
            return
        last = self._invitation
        number = last.attempt if attempt is None else attempt
        self._invitation = Invitation(last.generation, last.serial + 1, word, number, endpoint)
        if word in (CHECK, TRAIN):
            self._task, self._trouble = self._invitation, ""
            self._silences = {rank: Silence(self._silence_seconds) for rank in self._followers()}
        write_invitation(self._run_dir, self._invitation)

    def call_to_check(self, launch: LaunchSpec, attempt: int) -> None:
        """Has every follower ask its health gate."""
        self._silence_seconds = launch.silence_seconds
        self.lost, self.left = {}, set()
        self.invite(CHECK, attempt)

    def call_to_train(self, attempt: int) -> str:
        """Has every follower start its part of training; gives where all meet, "" on one node."""
        if self.node.alone:
            return ""
        endpoint = f"{self.node.head}:{free_port(self.node.first_port + attempt % 100)}"
        self.invite(TRAIN, attempt, endpoint)
        return endpoint

    def beat(self) -> None:
        """Shows that the head lives. A full disk must not end a run that may go on."""
        now = time.monotonic()
        if self.node.alone or now < self._next_beat:
            return
        self._next_beat = now + beat_seconds(self._silence_seconds)
        self._invitation = replace(self._invitation, beat=self._invitation.beat + 1)
        try:
            write_invitation(self._run_dir, self._invitation)
        except TuneyardError as error:
            self.say(str(error))

    def trouble(self, now: float) -> str:
        """Why training cannot go on because of another node, "" when nothing is known."""
        if not self.node.alone and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._note_absences()
            self._trouble = "; ".join(words for rank in self._followers() if (words := self._trouble_of(rank, now)))
        return self._trouble

    def collect(self, seconds: float, wishes: StopWishes | None = None) -> list[Report]:
        """What the followers report about their task. Who has not after so long is lost."""
        deadline = time.monotonic() + seconds
        while len(reports := self._done()) < len(self._followers()) - len(self.lost):
            if wishes is not None and wishes.poll() is not None:
                return reports
            if time.monotonic() > deadline:
                self._miss(reports, seconds)
                break
            self.beat()
            self._look_for_absences()
            time.sleep(_POLL_SECONDS)
        return reports

    def end_training(self, own: PhaseEnd, hurried: bool) -> PhaseEnd:
        """Ends training on every node; the end of the phase as all nodes together saw it."""
        if self.node.alone:
            return own
        if self._invitation.word != HANG:  # that word ends it, too, and not everybody may have read it yet
            self.invite(REST)
        reports = self.collect(_HURRIED_SECONDS if hurried else REPORT_SECONDS)
        self.invite(REST)
        return joint_end(own, reports, self.lost, self.left)

    @property
    def gives_back(self) -> bool:
        """Whether there are other nodes, and somebody can give them back."""
        return not self.node.alone and RELEASED in os.environ

    def release(self) -> None:
        """Gives the other nodes back: export and evaluation need the first one alone.

        Their agents leave, so that no attempt can begin in this life of the job any more.
        """
        self.say(f"training is done: {len(self.node.names) - 1} of {len(self.node.names)} nodes are given back")
        self.released = True
        self._send_away(TRAINED)

    def dismiss(self) -> None:
        """Sends the followers away. They leave by themselves, later, when this cannot be written."""
        self._send_away(LEFT)

    def _send_away(self, word: str) -> None:
        try:
            self.invite(LEAVE)
        except TuneyardError as error:
            self.say(str(error))
        if (path := os.environ.get(RELEASED)) and not self.node.alone:
            with contextlib.suppress(OSError):  # a full disk: the nodes stay until the job ends
                Path(path).write_text(word, encoding="ascii")

    def _followers(self) -> range:
        return range(1, len(self.node.names))

    def _done(self) -> list[Report]:
        found = (read_report(self._run_dir, self._task, rank) for rank in self._followers())
        return [report for report in found if report is not None and report.done]

    def _trouble_of(self, rank: int, now: float) -> str:
        name, report = self.node.names[rank], read_report(self._run_dir, self._task, rank)
        if report is not None and report.done:
            end = report.end
            failed = end is not None and end.exit_code != 0
            return f"{name}: {end.words or 'training failed there'}" if end is not None and failed else ""
        if self._silences[rank].lasts_too_long(report and report.beat, now):
            self.lost[name] = f"no sign of {name} for {self._silence_seconds:.0f} s"
        return self.lost.get(name, "")

    def _look_for_absences(self) -> None:
        if (now := time.monotonic()) >= self._next_miss:
            self._next_miss = now + _LOOK_SECONDS
            self._note_absences()

    def _note_absences(self) -> None:
        """Who started the agents may know that one has gone. What it has reported before counts all the same."""
        absences = read_absences(self._run_dir, self.node.generation)
        told = {report.rank for report in self._done()} if absences else set()
        for absence in absences:
            name = self.node.names[absence.rank]
            if absence.rank not in told and name not in self.lost:
                self.lost[name] = f"{name}: {absence.words}"
                self.left |= {name} if absence.blameless else set()

    def _miss(self, reports: Sequence[Report], seconds: float) -> None:
        told = {report.rank for report in reports}
        for rank in self._followers():
            if rank not in told:
                name = self.node.names[rank]
                self.lost.setdefault(name, f"{name} did not report within {seconds:g} s")


def joint_end(own: PhaseEnd, reports: Sequence[Report], lost: dict[str, str], left: Collection[str] = ()) -> PhaseEnd:
    """How training ended, from how it ended on each node: the words of whoever failed first, the proofs of all."""
    ends = [report.end for report in reports if report.end is not None]
    proofs = tuple(proof for end in [own, *ends] for proof in end.proofs)
    named = tuple(words for end in [own, *ends] for words in end.named)
    if own.exit_code == 0:
        return replace(own, proofs=proofs, named=named)
    silent = tuple(lost_evidence(lost, left))
    words = "; ".join(lost.values()) or _first_words(own, reports)
    return replace(own, words=words, proofs=(*silent, *proofs), named=named)


def lost_evidence(lost: dict[str, str], left: Collection[str] = ()) -> list[Evidence]:
    """Nodes that are gone, as evidence: nobody is blamed for one that was taken away."""
    return [(left_node if name in left else lost_node)(name, words) for name, words in lost.items()]


def _first_words(own: PhaseEnd, reports: Sequence[Report]) -> str:
    """A rank that was killed explains those that lost it; else the first to fail does."""
    failed = [(report.ended, report.end) for report in reports if report.end is not None and report.end.exit_code != 0]
    failed.sort(key=lambda item: item[0])
    by_themselves = [end for _, end in failed if not end.ended_by_agent]
    ends = [end for end in ([] if own.ended_by_agent else [own]) + by_themselves if end.words]
    killed = [end for end in ends if _KILLED in end.words]
    return next((end.words for end in [*killed, *ends]), own.words)
