"""What the agents of several nodes tell each other, as files in the run directory.

The leader commands by one file, replaced as a whole; each worker reports in one of its own in the attempt's folder.
Both carry the generation of the scheduler's job, their epoch: messages of another one are never acted upon.
`cluster.liveness` tells how they are kept fresh. Files and their keys are named as in earlier versions, as nodes of one
run may have two of them while it is upgraded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.agent.health.checks import Check
from cluster.agent.verdict.log_evidence import Evidence
from cluster.agent.verdict.outcome import PhaseEnd
from cluster.liveness import read_of_epoch
from rundir.files import write_json
from rundir.outcome import Outcome
from rundir.paths import RunPaths

COMMAND = "invitation.json"
DEPARTED = "absent.json"
CHECK, TRAIN, REST, HANG, LEAVE = "check", "train", "rest", "hang", "leave"
"""Names of commands: run the health gate; train; end training; the same, and take stacks first; exit."""
_KEYS = {"sequence_number": "serial", "name": "word", "command": "word", "message": "words", "was_evicted": "blameless"}
"""Keys in files where they differ from a field's name."""


@dataclass(frozen=True)
class Command:
    """What the leader wants of its workers now. `sequence_number` grows with each command, `beat` with each write."""

    generation: str
    sequence_number: int = 0
    name: str = REST
    attempt: int = 0
    endpoint: str = ""
    """Where the ranks of all nodes meet."""
    beat: int = 0


@dataclass(frozen=True)
class Report:
    """A worker's answer to the command with that sequence number."""

    generation: str
    rank: int
    node: str
    attempt: int
    sequence_number: int
    command: str
    done: bool = False
    health: tuple[Check, ...] = ()
    end: PhaseEnd | None = None
    ended: float = 0.0
    beat: int = 0


@dataclass(frozen=True)
class DepartedWorker:
    """A worker that whoever starts the agents knows to be gone, sooner than a timeout would tell."""

    rank: int
    message: str
    was_evicted: bool = False
    """It was taken away or replaced: nothing is wrong with its node."""


def write_command(run_dir: Path, command: Command) -> None:
    """Replaces the command."""
    write_json(run_dir / COMMAND, _as_json(command))


def read_command(run_dir: Path, generation: str) -> Command | None:
    """The newest command of this generation's leader; None when there is none."""
    try:
        return Command(**_fields(Command, read_of_epoch(run_dir / COMMAND, generation=generation)))
    except TypeError:
        return None


def write_departed(run_dir: Path, generation: str, departed: Sequence[DepartedWorker]) -> None:
    """Replaces what is known about workers of this generation that are gone."""
    facts = {"generation": generation, "absences": [_as_json(worker) for worker in departed]}
    write_json(run_dir / DEPARTED, facts)


def read_departed(run_dir: Path, generation: str) -> list[DepartedWorker]:
    """The workers of this generation that are known to be gone."""
    given = read_of_epoch(run_dir / DEPARTED, generation=generation)
    try:
        return [DepartedWorker(**_fields(DepartedWorker, one)) for one in given["absences"]]
    except (KeyError, TypeError, AttributeError):
        return []


def report_path(run_dir: Path, attempt: int, rank: int) -> Path:
    """Where the worker on node `rank` reports."""
    return RunPaths(run_dir).attempt_logs(attempt) / f"node-{rank:02d}.json"


def write_report(run_dir: Path, report: Report) -> None:
    """Replaces a worker's report."""
    path = report_path(run_dir, report.attempt, report.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _as_json(report))


def read_report(run_dir: Path, command: Command, rank: int) -> Report | None:
    """What that node's worker reports about this very command; None when it has not yet."""
    path = report_path(run_dir, command.attempt, rank)
    given = read_of_epoch(path, generation=command.generation, serial=command.sequence_number)
    try:
        return Report(**_fields(Report, given) | _rebuilt(given))
    except (TypeError, ValueError, KeyError):
        return None


def _as_json(message: Command | Report | DepartedWorker) -> dict[str, Any]:
    return {_KEYS.get(name, name): value for name, value in asdict(message).items()}


def _fields(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a message by the keys of its file. Keys that are unknown stay, and are refused."""
    ours = {_KEYS[name]: name for name in kind.__dataclass_fields__ if name in _KEYS}
    return {ours.get(key, key): value for key, value in given.items()}


def _rebuilt(given: Mapping[str, Any]) -> dict[str, Any]:
    end = given.get("end")
    return {
        "health": tuple(Check(**check) for check in given["health"]),
        "end": _end(end) if end else None,
    }


def _end(given: Mapping[str, Any]) -> PhaseEnd:
    named = tuple((bool(stuck), str(words)) for stuck, words in given["named"])
    return PhaseEnd(**{**given, "named": named, "proofs": tuple(_evidence(proof) for proof in given["proofs"])})


def _evidence(given: Mapping[str, Any]) -> Evidence:
    return Evidence(**{**given, "outcome": Outcome(given["outcome"])})
