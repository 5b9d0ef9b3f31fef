"""How an attempt ended, from what is known about it. Pure functions; docs/node-agent.md holds the table.

progress.json, failure.json and the stop file are the truth. Exit codes are hints: torchrun makes 1 of every rank's.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.agent.verdict.log_evidence import Evidence
from cluster.process_identity import ProcessIdentity
from rundir.attempts import AttemptRecord
from rundir.outcome import Outcome
from rundir.progress import Progress
from rundir.states import TrainerState
from rundir.stop import StopRequest

AFTER_TRAINING = ("export", "evaluate")
"""Phases that find the run trained and saved: each can be tried alone, without asking for all machines again."""
_JOB_IS_WRONG = 2
_NAMED_RANKS = 8


@dataclass(frozen=True)
class PhaseEnd:
    """How one phase ended. `words` is the most telling line of its log, "" when it said nothing."""

    phase: str
    exit_code: int  # minus the signal's number when a signal killed it
    seconds: float = 0.0
    ended_by_agent: bool = False  # it was told to leave, did not, and was sent SIGTERM or SIGKILL
    words: str = ""
    hang: str = ""  # what the heartbeat watch found when it ended the phase
    proofs: tuple[Evidence, ...] = ()
    named: tuple[tuple[bool, str], ...] = ()  # during a hang: (could not run, what a rank was doing)

    @property
    def hang_words(self) -> str:
        """The hang with what its ranks were doing, those that could not run first."""
        return "; ".join([self.hang, *(words for _, words in sorted(self.named, key=_stuck_first)[:_NAMED_RANKS])])


@dataclass(frozen=True)
class Verdict:
    """What goes into the attempt's record."""

    outcome: Outcome
    cause: str
    evidence: tuple[Evidence, ...] = ()
    remedy: str = ""


def went_well(end: PhaseEnd, progress: Progress, attempt: int) -> bool:
    """Whether the phase did its work. Training did when the trainer says so, whatever torchrun made of it."""
    if end.phase != "train":
        return end.exit_code == 0
    if end.exit_code == 0:  # also a run that an earlier attempt has finished
        return progress.is_finished
    return progress.of_attempt(attempt).is_trained


def judge(
    attempt: int,
    ends: Sequence[PhaseEnd],
    planned: Sequence[str],
    progress: Progress,
    stop: StopRequest | None,
    found: Sequence[Evidence] = (),
    *,
    was_trained: bool = False,
) -> Verdict:
    """The verdict over an attempt: its phases so far, those planned, its progress, the stop request, evidence.

    `was_trained`: an earlier attempt has trained, and this one only does what follows.
    """
    failed = next((end for end in ends if not went_well(end, progress, attempt)), None)
    if failed is None:
        return Verdict(Outcome.FINISHED, "") if len(ends) == len(planned) else stopped(stop)
    mine = progress.of_attempt(attempt)
    if failed.phase == "train" and mine.state == TrainerState.STOPPED:
        return stopped(stop)
    if stop is not None and failed.ended_by_agent:
        return _forced(stopped(stop), failed)
    verdict = _failure(failed, mine, tuple(found))
    trained = was_trained or any(end.phase == "train" for end in ends)
    trained = trained and failed.phase in AFTER_TRAINING
    if trained and verdict.outcome is not Outcome.NODE_FAILURE:
        return replace(verdict, outcome=Outcome.FINISHED, cause=f"trained and saved, but {verdict.cause}")
    return verdict


def stopped(stop: StopRequest | None) -> Verdict:
    """An attempt that left because it was asked to; without a request, the ranks were signalled themselves."""
    if stop is None:
        return Verdict(Outcome.PREEMPTED, "the ranks were signalled directly")
    return Verdict(stop.reason.outcome, stop.who)


def describe_exit(code: int) -> str:
    """An exit code in words: `killed by SIGKILL`, `exit code 3`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def abandoned(
    record: AttemptRecord,
    stop: StopRequest | None,
    previous: ProcessIdentity | None,
    boot: str | None,
    generation: str = "",
) -> Verdict:
    """The verdict over an attempt whose agent died without one: asked to stop, killed, or lost with its node.

    `previous` is the dead agent's identity, `boot` this machine's boot id: when both agree, the machine has
    lived on and only the agent was killed. `generation` is the scheduler's present life of the job: in another
    one than the attempt's, the scheduler ended the job, and started it again.
    """
    if stop is not None and (stop.time or 0.0) >= (record.started or 0.0):
        asked = stopped(stop)
        return Verdict(asked.outcome, f"{asked.cause}; the agent was killed before it could say more")
    if generation and record.generation not in ("", generation):
        return Verdict(Outcome.PREEMPTED, "the scheduler ended the job; the agent was killed before it could say more")
    if previous is not None and boot is not None and previous.boot == boot:
        return Verdict(Outcome.CRASHED, "the agent was killed")
    return Verdict(Outcome.NODE_FAILURE, "the agent vanished with its machine")


def with_down_nodes(verdict: Verdict, nodes: Sequence[str], down: Mapping[str, str]) -> Verdict:
    """The same verdict, or a lost node's: when machines were taken away, and the scheduler calls one of them down.

    Nobody is blamed: the scheduler itself keeps away from a node as long as it is down.
    """
    lost = [node for node in nodes if node in down]
    if not lost or not verdict.outcome.may_be_lost_node:
        return verdict
    words = "; ".join(f"the scheduler calls {node} {down[node]}" for node in lost)
    proofs = tuple(Evidence("node_down", node, f"the scheduler calls it {down[node]}", "scheduler") for node in lost)
    return Verdict(Outcome.NODE_FAILURE, f"{words}; {verdict.cause}", (*proofs, *verdict.evidence), verdict.remedy)


def _forced(verdict: Verdict, end: PhaseEnd) -> Verdict:
    if end.phase != "train":
        return Verdict(verdict.outcome, f"{verdict.cause} during {end.phase}")
    return Verdict(verdict.outcome, f"{verdict.cause}; training did not leave in time and was killed unsaved")


def _stuck_first(named: tuple[bool, str]) -> bool:
    return not named[0]


def _failure(end: PhaseEnd, mine: Progress, found: tuple[Evidence, ...]) -> Verdict:
    failure, said = mine.failure, mine.failure.message
    best = found[0] if found else None
    remedy = (best.remedy if best else "") or failure.remedy
    if failure.is_fatal:  # the trainer's own word is the first truth
        return Verdict(Outcome.FATAL, said or end.phase, found, remedy)
    exits = describe_exit(end.exit_code) if end.exit_code else "left without finishing"
    proof = f"{best.words}: {best.line}" if best and best.words else said
    parts = [end.hang_words or end.words or exits, proof] if end.phase == "train" else [exits, proof or end.words]
    cause = f"{end.phase}: " + "; ".join(part for part in parts if part)
    return Verdict(_outcome_of(end, best), cause, found, remedy)


def _outcome_of(end: PhaseEnd, best: Evidence | None) -> Outcome:
    if best is not None and best.outcome in (Outcome.FATAL, Outcome.NODE_FAILURE):
        return best.outcome
    if end.phase != "train" and end.exit_code == _JOB_IS_WRONG:
        return Outcome.FATAL
    return Outcome.HANG if end.hang else Outcome.CRASHED
