"""What the agents of several nodes tell each other, as files in the run directory.

The head invites with one file, replaced as a whole; each follower answers with one of its own in the attempt's
folder. Both carry the generation: what agents of another life of the job say is never acted upon. Whoever has
something to say rewrites its file now and then, so that silence can be told from having nothing new to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.agent.evidence import Evidence
from cluster.agent.health import Check
from cluster.agent.outcome import PhaseEnd
from rundir.files import read_json_of_other_node, write_json
from rundir.outcome import Outcome
from rundir.paths import RunPaths

INVITATION = "invitation.json"
ABSENT = "absent.json"
CHECK, TRAIN, REST, HANG, LEAVE = "check", "train", "rest", "hang", "leave"
"""Be checked; train; end training; the same, and take stacks first; go."""


@dataclass(frozen=True)
class Invitation:
    """What the head wants its followers to do now: `serial` grows with each wish, `beat` with each sign of life."""

    generation: str
    serial: int = 0
    word: str = REST
    attempt: int = 0
    endpoint: str = ""
    beat: int = 0


@dataclass(frozen=True)
class Report:
    """What a follower has to say about the invitation with that serial number."""

    generation: str
    rank: int
    node: str
    attempt: int
    serial: int
    word: str
    done: bool = False
    health: tuple[Check, ...] = ()
    end: PhaseEnd | None = None
    ended: float = 0.0
    beat: int = 0

    def renewed(self) -> Report:
        """The same words with another sign of life."""
        return replace(self, beat=self.beat + 1)


@dataclass
class Silence:
    """For how long somebody has shown no sign of life, by our own monotonic clock."""

    limit_seconds: float
    _seen: Any = None
    _still_seconds: float = 0.0
    _looked_at: float | None = field(default=None)

    def lasts_too_long(self, sign: Any, now: float) -> bool:
        """Whether the limit is over; `sign` is anything that changes while the other one lives."""
        # as in the heartbeat watch: what passed while we did not look ourselves proves nothing
        since = 0.0 if self._looked_at is None else min(now - self._looked_at, self.limit_seconds / 4)
        self._still_seconds = self._still_seconds + since if sign == self._seen else 0.0
        self._seen, self._looked_at = sign, now
        return self._still_seconds >= self.limit_seconds


def write_invitation(run_dir: Path, invitation: Invitation) -> None:
    """Replaces the invitation."""
    write_json(run_dir / INVITATION, asdict(invitation))


def read_invitation(run_dir: Path, generation: str) -> Invitation | None:
    """The invitation of this generation's head; None when there is none, or another one's."""
    given = read_json_of_other_node(run_dir / INVITATION)
    if given.get("generation") != generation:
        return None
    try:
        return Invitation(**given)
    except TypeError:
        return None


@dataclass(frozen=True)
class Absence:
    """A follower that whoever starts the agents knows to be gone, sooner than silence would tell."""

    rank: int
    words: str
    blameless: bool = False
    """It was taken away or replaced: nothing is wrong with its node."""


def write_absences(run_dir: Path, generation: str, absences: Sequence[Absence]) -> None:
    """Replaces what is known about the followers of this life."""
    write_json(run_dir / ABSENT, {"generation": generation, "absences": [asdict(one) for one in absences]})


def read_absences(run_dir: Path, generation: str) -> list[Absence]:
    """The followers of this life that are known to be gone."""
    given = read_json_of_other_node(run_dir / ABSENT)
    if given.get("generation") != generation:
        return []
    try:
        return [Absence(**one) for one in given["absences"]]
    except (KeyError, TypeError):
        return []


def report_path(run_dir: Path, attempt: int, rank: int) -> Path:
    """Where the follower on node `rank` reports."""
    return RunPaths(run_dir).attempt_logs(attempt) / f"node-{rank:02d}.json"


def write_report(run_dir: Path, report: Report) -> None:
    """Replaces a follower's report."""
    path = report_path(run_dir, report.attempt, report.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(report))


def read_report(run_dir: Path, invitation: Invitation, rank: int) -> Report | None:
    """What that node's follower says about this very invitation; None when it has not said anything yet."""
    given = read_json_of_other_node(report_path(run_dir, invitation.attempt, rank))
    if given.get("generation") != invitation.generation or given.get("serial") != invitation.serial:
        return None
    try:
        return Report(**given | _rebuilt(given))
    except (TypeError, ValueError, KeyError):
        return None


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
