"""attempts.jsonl: one record for each attempt, how it ended, and what the restart policy decided upon it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from rundir.document import (
    Document,
    JsonObject,
    as_flag,
    as_integer,
    as_number,
    as_numbers,
    as_object,
    as_text,
    as_texts,
    field,
    many,
    nested,
)
from rundir.errors import RunDirError
from rundir.files import parse_object, write_text
from rundir.outcome import Outcome
from rundir.paths import RunPaths

NOTHING: Mapping[str, float] = {}


class Action(StrEnum):
    """What happens to a run after an attempt."""

    RESTART = "restart"
    STOP = "stop"


class Exclusion(Document):
    """A node that must not be used until a point in Unix time, and why."""

    node: str = field(as_text, default="")
    evidence: str = field(as_text, default="")
    until: float = field(as_number, default=0.0)


class Decision(Document):
    """The restart policy's decision upon an attempt. `reason` is for people."""

    action: str = field(as_text, default="")
    reason: str = field(as_text, default="")
    wait_seconds: float = field(as_number, default=0.0)
    exclude: tuple[Exclusion, ...] = field(many(Exclusion), default=())

    @classmethod
    def to_stop(cls, reason: str, exclude: Iterable[Exclusion] = ()) -> Decision:
        """There is no other attempt."""
        return cls(action=Action.STOP, reason=reason, wait_seconds=0.0, exclude=tuple(exclude))

    @classmethod
    def to_restart(cls, reason: str, wait_seconds: float, exclude: Iterable[Exclusion] = ()) -> Decision:
        """There is another attempt after so many seconds."""
        return cls(action=Action.RESTART, reason=reason, wait_seconds=wait_seconds, exclude=tuple(exclude))

    @property
    def restarts(self) -> bool:
        """Whether there is to be another attempt."""
        return self.action == Action.RESTART

    @property
    def stops(self) -> bool:
        """Whether the run has ended."""
        return self.action == Action.STOP


class EvidenceRecord(Document):
    """A line that proves something about a failed attempt, and whom it blames."""

    kind: str = field(as_text, default="")
    node: str = field(as_text, default="")
    line: str = field(as_text, default="")
    blames: str = field(as_text, default="")  # job | node | suspect | storage | scheduler


class HealthRecord(Document):
    """What one check of a node's health gate found; `node` is given on several nodes only."""

    name: str = field(as_text, default="")
    ok: bool = field(bool, default=False)
    words: str = field(as_text, default="")
    blames: str = field(as_text, default="")
    node: str = field(as_text, default="")


class AttemptRecord(Document):
    """One attempt. Times are Unix seconds; steps are None, not 0, where the attempt told none."""

    number: int = field(as_integer, default=-1, key="attempt")
    outcome: Outcome | None = field(Outcome.parse, default=None)
    cause: str | None = field(as_text, default=None)
    nodes: tuple[str, ...] = field(as_texts, default=())
    generation: str = field(as_text, default="")
    """The life of the scheduler's job that the attempt belongs to; empty where no scheduler counts any."""
    submitted: float | None = field(as_number, default=None)
    started: float | None = field(as_number, default=None)
    ended: float | None = field(as_number, default=None)
    phase_seconds: Mapping[str, float] = field(as_numbers, default=NOTHING)
    """Where the attempt's time went, the wait for it included."""
    first_step: int | None = field(as_integer, default=None)
    last_step: int | None = field(as_integer, default=None)
    last_checkpoint_step: int | None = field(as_integer, default=None)
    longest_seconds: Mapping[str, float] = field(as_numbers, default=NOTHING)
    """The longest `step` and `save`."""
    seconds: Mapping[str, float] = field(as_numbers, default=NOTHING)
    """By phase, as the agent saw it from outside."""
    exit_codes: Mapping[str, float] = field(as_numbers, default=NOTHING)
    health: tuple[HealthRecord, ...] = field(many(HealthRecord), default=())
    evidence: tuple[EvidenceRecord, ...] = field(many(EvidenceRecord), default=())
    remedy: str = field(as_text, default="")
    lost_steps: int | None = field(as_integer, default=None)
    lost_seconds: float | None = field(as_number, default=None)
    decision: Decision = field(nested(Decision), default=Decision())
    trained: bool = field(as_flag, default=False)
    """The last step is saved, and other nodes were given back: what is left of the run asks for one node only."""
    stop_time: float | None = field(as_number, default=None)
    """`time` of the stop request that ended the attempt."""

    @property
    def is_open(self) -> bool:
        """Whether the attempt has no outcome yet: it runs, or its agent died."""
        return self.outcome is None

    def is_of_submission(self, submitted: float) -> bool:
        """Whether the attempt belongs to the submit of that time, which a file of another program may have rounded."""
        return abs((self.submitted or 0.0) - submitted) < 0.01

    def in_short(self, most_characters: int) -> JsonObject:
        """Its end in a few keys, texts cut to a length."""

        def cut(value: object) -> object:
            return value[:most_characters] if isinstance(value, str) else value

        names = ("attempt", "outcome", "cause", "last_step", "last_checkpoint_step")
        found, decision = self.to_json(), self.decision.to_json()
        short = {name: cut(found.get(name)) for name in names}
        return {**short, "decision": {name: cut(decision.get(name)) for name in ("action", "reason")}}


def attempt_record(value: object) -> AttemptRecord | None:
    """The record that a JSON value is; None when it does not say of which attempt."""
    found = as_object(value)
    record = AttemptRecord.from_json(found)
    return record if found is not None and record.number >= 0 else None


def read_attempts(run_dir: Path) -> list[AttemptRecord]:
    """The records of all attempts, oldest first; lines that are not records are left out."""
    found = (attempt_record(parse_object(line)) for line in _lines(run_dir))
    return [record for record in found if record is not None]


def newest_attempt(run_dir: Path) -> AttemptRecord | None:
    """The record of the newest attempt; None before there is one."""
    return next(reversed(read_attempts(run_dir)), None)


def next_attempt(run_dir: Path) -> int:
    """The number of the attempt to come: never one that was used before, damaged lines included."""
    return max([len(_lines(run_dir)), *(record.number + 1 for record in read_attempts(run_dir))])


def put_attempt(run_dir: Path, record: AttemptRecord) -> None:
    """Writes an attempt's record: in place of the line with the same number, else as a new last line."""
    lines, new_line = _lines(run_dir), json.dumps(record.to_json())
    for index, line in enumerate(lines):
        known = attempt_record(parse_object(line))
        if known is not None and known.number == record.number:
            lines[index] = new_line
            break
    else:
        lines.append(new_line)
    write_text(RunPaths(run_dir).attempts, "".join(f"{line}\n" for line in lines))


def _lines(run_dir: Path) -> list[str]:
    path = RunPaths(run_dir).attempts
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunDirError(f"{path}: cannot be read: {error.strerror}") from error
    return [line for line in content.splitlines() if line.strip()]
