"""One attempt: its record in attempts.jsonl, its folder of logs, and the closing of records left open."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cluster.agent.health.checks import Check
from cluster.agent.process.node import this_node
from cluster.agent.verdict.outcome import PhaseEnd, Verdict, abandoned, with_down_nodes
from cluster.process_identity import ProcessIdentity, boot_id
from cluster.run.goodput import mean_time_between_failures_seconds, with_account, with_steps
from cluster.run.restart_policy import decide
from rundir.attempts import AttemptRecord, Decision, newest_attempt, next_attempt, put_attempt, read_attempts
from rundir.errors import RunDirError
from rundir.files import read_json_of_other_node
from rundir.nodes import read_down_nodes
from rundir.outcome import Outcome
from rundir.paths import RunPaths
from rundir.plan import RestartLimits
from rundir.progress import read_progress
from rundir.stop import read_stop


class Attempt:
    """The attempt that this agent carries. Opening it writes its record, with no outcome yet.

    Args:
        run_dir: The run directory.
        submitted: When its scheduler was given the run.
        started: When it began, where that is not now.
    """

    def __init__(self, run_dir: Path, submitted: float, started: float | None = None) -> None:
        self.run_dir = run_dir
        self.number = next_attempt(run_dir)
        self.log_dir = RunPaths(run_dir).attempt_logs(self.number)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.ends: list[PhaseEnd] = []
        self._trained_before: AttemptRecord | None = None
        read_json_of_other_node(
            RunPaths(run_dir).failure
        )  # a rank on another node may write it: then it is to be seen at once
        started, earlier, node = started or time.time(), read_attempts(run_dir), this_node()
        self.mtbf_seconds = mean_time_between_failures_seconds(earlier)
        queued = {"queue": round(_queued_seconds(earlier, submitted, started), 3)}
        self._record = AttemptRecord(number=self.number, outcome=None, cause=None, nodes=node.names)
        if node.generation:
            self._record = self._record.changed(generation=node.generation)
        self._record = self._record.changed(submitted=submitted, started=started, ended=None, phase_seconds=queued)
        self._write()

    def say(self, words: str) -> None:
        """One line in agent.log and on stderr. Trouble with either must not end a run."""
        line = f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {words}\n"
        try:
            with open(self.log_dir / "agent.log", "a", encoding="utf-8") as log:
                log.write(line)
            sys.stderr.write(line)
        except OSError:
            return  # a full disk, or a terminal that is gone

    def add(self, end: PhaseEnd) -> None:
        """Notes a phase's end in the record, so that it is known even if the agent dies next."""
        self.ends.append(end)
        try:
            self._write()
        except RunDirError as error:  # a full disk: the run goes on, and the outcome may still fit
            self.say(str(error))

    def note_trained(self) -> None:
        """Notes that training is done, before other nodes are given back: what is left never asks for them again."""
        self._record = self._record.changed(trained=True)
        try:
            self._write()
        except RunDirError as error:  # a full disk: then the nodes stay
            self.say(str(error))

    @property
    def was_trained(self) -> bool:
        """Whether this attempt only does what follows training."""
        return self._trained_before is not None

    def follow_training(self) -> None:
        """This attempt only does what follows training: its steps are those of the attempt that trained."""
        self._trained_before = next(one for one in reversed(read_attempts(self.run_dir)) if one.trained)

    def note_health(self, checks: Mapping[str, Sequence[Check]], seconds: float) -> None:
        """Adds what each node's health gate found; it is written with the next change of the record.

        Of the other nodes of a run only what failed, as their reports hold the rest: a run may have hundreds.
        """
        (first, ours), *others = checks.items()
        found = [check.record(node=first) if others else check.record() for check in ours]
        for node, theirs in others:
            found += [check.record(node=node) for check in theirs if not check.ok]
        phase_seconds = {**self._record.phase_seconds, "gate": round(seconds, 3)}
        self._record = self._record.changed(health=found, phase_seconds=phase_seconds)

    def close(self, verdict: Verdict, limits: RestartLimits) -> Decision:
        """Writes the outcome, the last word of this attempt, and what the policy decides upon it."""
        verdict = with_down_nodes(verdict, self._record.nodes, read_down_nodes(self.run_dir))
        record = self._record.changed(outcome=verdict.outcome, cause=verdict.cause, ended=time.time())
        record = _with_stop_time(record, self.run_dir, verdict.outcome)
        self._record = record.changed(remedy=verdict.remedy, evidence=[item.record() for item in verdict.evidence])
        self._collect()
        self._record = with_account(self._record, read_progress(self.run_dir).of_attempt(self.number))
        earlier = [record for record in read_attempts(self.run_dir) if record.number != self.number]
        decision = decide([*earlier, self._record], limits, time.time())
        self._record = self._record.changed(decision=decision)
        # said before the record is closed: whoever follows the log reads until then
        self.say(": ".join([verdict.outcome.value, *verdict.cause.splitlines()[:1]]))
        if not verdict.outcome.is_terminal:
            self.say(_in_words(decision))
        self._put()
        return decision

    def amend(self, decision: Decision) -> None:
        """Replaces the decision: somebody stopped the run before it was carried out."""
        self.say(_in_words(decision))
        self._record = self._record.changed(decision=decision)
        self._put()

    def _write(self) -> None:
        self._collect()
        self._put()

    def _put(self) -> None:
        """Writes the record, unless another life of the run has begun: storage may have given our lock away."""
        if next_attempt(self.run_dir) > self.number + 1:
            self.say(f"a later attempt has begun elsewhere: the record of attempt {self.number} stays as it is")
        else:
            put_attempt(self.run_dir, self._record)

    def _collect(self) -> None:
        self._record = with_steps(self._record, read_progress(self.run_dir))
        if (before := self._trained_before) is not None:
            self._record = self._record.changed(
                trained=True,
                first_step=before.last_step,
                last_step=before.last_step,
                last_checkpoint_step=before.last_checkpoint_step,
            )
        seconds = {end.phase: end.seconds for end in self.ends}
        codes = {end.phase: end.exit_code for end in self.ends}
        self._record = self._record.changed(seconds=seconds, exit_codes=codes)


def _queued_seconds(earlier: Sequence[AttemptRecord], submitted: float, started: float) -> float:
    """How long the run waited for this attempt: since it was submitted, or since its last attempt ended."""
    is_first = not earlier or earlier[-1].submitted != submitted
    waits_since = submitted if is_first else earlier[-1].ended
    return max(0.0, started - (waits_since or started))


def _in_words(decision: Decision) -> str:
    wait = f" in {decision.wait_seconds:g} s" if decision.wait_seconds else ""
    return f"{decision.action}{wait}: {decision.reason}"


def close_abandoned(run_dir: Path, previous: ProcessIdentity | None) -> None:
    """Gives an outcome to records whose agent died. Only the holder of the lock may do this."""
    stop, generation, down = read_stop(run_dir), this_node().generation, read_down_nodes(run_dir)
    for record in read_attempts(run_dir):
        if record.is_open:
            verdict = abandoned(record, stop, previous, boot_id(), generation)
            put_attempt(run_dir, closed(run_dir, record, with_down_nodes(verdict, record.nodes, down)))
    _reconsider(run_dir, down, generation)


def _reconsider(run_dir: Path, down: Mapping[str, str], generation: str) -> None:
    """Who was told to leave, and could not know why, was on a lost node if the scheduler now calls one down."""
    last = newest_attempt(run_dir)
    if last is None or last.outcome is not Outcome.PREEMPTED or last.generation in ("", generation):
        return
    told = Verdict(Outcome.PREEMPTED, last.cause or "")
    if (verdict := with_down_nodes(told, last.nodes, down)) != told:
        evidence = [*(item.record() for item in verdict.evidence), *last.evidence]
        put_attempt(run_dir, last.changed(outcome=verdict.outcome, cause=verdict.cause, evidence=evidence))


def closed(run_dir: Path, record: AttemptRecord, verdict: Verdict) -> AttemptRecord:
    """An abandoned record with its outcome, as far as the trainer's last sign of life tells the rest."""
    progress = read_progress(run_dir).of_attempt(record.number)
    ended = progress.heartbeat or record.started
    record = record.changed(outcome=verdict.outcome, cause=verdict.cause, ended=ended)
    record = _with_stop_time(record, run_dir, verdict.outcome)
    if verdict.evidence:
        record = record.changed(evidence=[item.record() for item in verdict.evidence])
    return with_account(with_steps(record, progress), progress)


def _with_stop_time(record: AttemptRecord, run_dir: Path, outcome: Outcome) -> AttemptRecord:
    """Notes which stop request ended the attempt: so a new one is told from it without comparing clocks."""
    stop = read_stop(run_dir) if outcome.was_requested else None
    return record if stop is None or stop.time is None else record.changed(stop_time=stop.time)
