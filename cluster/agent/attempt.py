"""One attempt: its record in attempts.jsonl, its folder of logs, and the closing of records left open."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.agent.health import Check
from cluster.agent.node import this_node
from cluster.agent.outcome import PhaseEnd, Verdict, abandoned, with_down_nodes
from cluster.contract import ClusterError, Outcome
from cluster.goodput import account, mean_time_between_failures_seconds, steps_of
from cluster.policy import Decision, Limits, decide
from cluster.processes import boot_id
from cluster.rundir import (
    FAILURE,
    attempt_log_dir,
    next_attempt,
    of_attempt,
    put_attempt,
    read_attempts,
    read_down_nodes,
    read_json_of_others,
    read_progress,
    read_stop,
)

ASKED_FOR = (Outcome.STOPPED, Outcome.PREEMPTED, Outcome.WALLTIME)
_LAST_STEPS = ("last_step", "last_checkpoint_step")
_SPEAK_FOR_THEMSELVES = (Outcome.FINISHED, Outcome.STOPPED, Outcome.FATAL)


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
        self.log_dir = attempt_log_dir(run_dir, self.number)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.ends: list[PhaseEnd] = []
        self._steps: dict[str, Any] = {}
        read_json_of_others(run_dir / FAILURE)  # a rank on another node may write it: then it is to be seen at once
        started, earlier, node = started or time.time(), read_attempts(run_dir), this_node()
        self.mtbf_seconds = mean_time_between_failures_seconds(earlier)
        self._record: dict[str, Any] = {
            "attempt": self.number,
            "outcome": None,
            "cause": None,
            "nodes": list(node.names),
            **({"generation": node.generation} if node.generation else {}),
            "submitted": submitted,
            "started": started,
            "ended": None,
            "phase_seconds": {"queue": round(_queued_seconds(earlier, submitted, started), 3)},
        }
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
        except ClusterError as error:  # a full disk: the run goes on, and the outcome may still fit
            self.say(str(error))

    def note_trained(self) -> None:
        """Notes that training is done, before other nodes are given back: what is left never asks for them again."""
        self._record["trained"] = True
        try:
            self._write()
        except ClusterError as error:  # a full disk: then the nodes stay
            self.say(str(error))

    @property
    def was_trained(self) -> bool:
        """Whether this attempt only does what follows training."""
        return bool(self._steps)

    def follow_training(self) -> None:
        """This attempt only does what follows training: its steps are those of the attempt that trained."""
        trained = next(one for one in reversed(read_attempts(self.run_dir)) if one.get("trained"))
        steps = {"first_step": trained.get("last_step")} | {name: trained.get(name) for name in _LAST_STEPS}
        self._steps = {"trained": True, **steps}

    def note_health(self, checks: Mapping[str, Sequence[Check]], seconds: float) -> None:
        """Adds what each node's health gate found; it is written with the next change of the record.

        Of the other nodes of a run only what failed, as their reports hold the rest: a run may have hundreds.
        """
        (first, ours), *others = checks.items()
        self._record["health"] = [check.as_json() | ({"node": first} if others else {}) for check in ours]
        for node, theirs in others:
            self._record["health"] += [check.as_json() | {"node": node} for check in theirs if not check.ok]
        self._record["phase_seconds"]["gate"] = round(seconds, 3)

    def close(self, verdict: Verdict, limits: Limits) -> Decision:
        """Writes the outcome, the last word of this attempt, and what the policy decides upon it."""
        verdict = with_down_nodes(verdict, self._record["nodes"], read_down_nodes(self.run_dir))
        self._record |= {"outcome": verdict.outcome.value, "cause": verdict.cause, "ended": time.time()}
        self._record |= _stop_time(self.run_dir, verdict.outcome)
        self._record["remedy"] = verdict.remedy
        self._record["evidence"] = [item.as_json() for item in verdict.evidence]
        self._collect()
        self._record |= account(self._record, of_attempt(read_progress(self.run_dir), self.number))
        earlier = [record for record in read_attempts(self.run_dir) if record["attempt"] != self.number]
        decision = decide([*earlier, self._record], limits, time.time())
        self._record["decision"] = decision.as_json()
        # said before the record is closed: whoever follows the log reads until then
        self.say(": ".join([verdict.outcome.value, *verdict.cause.splitlines()[:1]]))
        if verdict.outcome not in _SPEAK_FOR_THEMSELVES:
            self.say(_in_words(decision))
        self._put()
        return decision

    def amend(self, decision: Decision) -> None:
        """Replaces the decision: somebody stopped the run before it was carried out."""
        self.say(_in_words(decision))
        self._record["decision"] = decision.as_json()
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
        self._record |= steps_of(read_progress(self.run_dir), self.number) | self._steps
        self._record["seconds"] = {end.phase: end.seconds for end in self.ends}
        self._record["exit_codes"] = {end.phase: end.exit_code for end in self.ends}


def _queued_seconds(earlier: Sequence[Mapping[str, Any]], submitted: float, started: float) -> float:
    """How long the run waited for this attempt: since it was submitted, or since its last attempt ended."""
    last = earlier[-1] if earlier else {}
    waits_since = last.get("ended") if last.get("submitted") == submitted else submitted
    return max(0.0, started - (waits_since or started))


def _in_words(decision: Decision) -> str:
    wait = f" in {decision.wait_seconds:g} s" if decision.wait_seconds else ""
    return f"{decision.action}{wait}: {decision.reason}"


def close_abandoned(run_dir: Path, previous: Mapping[str, Any] | None) -> None:
    """Gives an outcome to records whose agent died. Only the holder of the lock may do this."""
    stop, generation, down = read_stop(run_dir), this_node().generation, read_down_nodes(run_dir)
    for record in read_attempts(run_dir):
        nodes = record.get("nodes") or []
        if record.get("outcome") is None:
            verdict = abandoned(record, stop, previous, boot_id(), generation)
            put_attempt(run_dir, closed(run_dir, record, with_down_nodes(verdict, nodes, down)))
    _reconsider(run_dir, down, generation)


def _reconsider(run_dir: Path, down: Mapping[str, str], generation: str) -> None:
    """Who was told to leave, and could not know why, was on a lost node if the scheduler now calls one down."""
    last: dict[str, Any] = next(reversed(read_attempts(run_dir)), {})
    if last.get("outcome") != Outcome.PREEMPTED or last.get("generation") in (None, generation):
        return
    told = Verdict(Outcome.PREEMPTED, str(last.get("cause") or ""))
    if (verdict := with_down_nodes(told, last.get("nodes") or [], down)) != told:
        evidence = [*(item.as_json() for item in verdict.evidence), *(last.get("evidence") or [])]
        put_attempt(run_dir, {**last, "outcome": verdict.outcome.value, "cause": verdict.cause, "evidence": evidence})


def closed(run_dir: Path, record: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """An abandoned record with its outcome, as far as the trainer's last sign of life tells the rest."""
    progress = of_attempt(read_progress(run_dir), record["attempt"])
    ended = progress.get("heartbeat") or record.get("started")
    outcome = {"outcome": verdict.outcome.value, "cause": verdict.cause, "ended": ended}
    outcome |= _stop_time(run_dir, verdict.outcome)
    if verdict.evidence:
        outcome["evidence"] = [item.as_json() for item in verdict.evidence]
    whole = {**record, **outcome, **steps_of(progress, record["attempt"])}
    return {**whole, **account(whole, progress)}


def _stop_time(run_dir: Path, outcome: Outcome) -> dict[str, Any]:
    """Which wish ended this attempt: so one that was granted is told from a new one without comparing clocks."""
    stop = read_stop(run_dir) if outcome in ASKED_FOR else None
    return {"stop_time": stop["time"]} if stop is not None and "time" in stop else {}
