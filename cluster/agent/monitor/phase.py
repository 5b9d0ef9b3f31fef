"""Running one phase to its end: waiting for it, and ending it when it was asked to leave and does not."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.agent.monitor.monitor import Oversight
from cluster.agent.process.children import Children
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.log_evidence import tail
from cluster.agent.verdict.outcome import PhaseEnd, describe_exit

TERM_TO_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.1
_KILLED_RANK = re.compile(r"rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-(?!15\b)\d+")  # SIGTERM is torchrun's own
_FIRST_FAILURE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


@dataclass(frozen=True)
class Phase:
    """One phase, ready to start. After a signal it has `grace_seconds` to leave; 0: it is ended at once."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log_path: Path
    grace_seconds: float
    oversight: Oversight | None = None
    beat: Callable[[], None] = lambda: None
    """Called all the time while the phase runs: other nodes want to know that we live."""


def run_phase(phase: Phase, children: Children, stop_requests: StopRequests) -> PhaseEnd:
    """Starts the phase and returns when nothing of it is left."""
    started = time.monotonic()
    pid = children.start(phase.command, phase.environment, phase.log_path)
    escalation = Escalation(phase.grace_seconds)
    while (code := children.exit_code(pid)) is None:
        stop = stop_requests.poll()
        since = stop_requests.signalled_at
        if since is None and stop is not None and phase.grace_seconds == 0:
            since = started  # this phase does not look for the stop file: do it in its place
        number = escalation.due(since, time.monotonic())
        if number == signal.SIGTERM:
            children.signal_group(pid, number)
        elif number == signal.SIGKILL:
            children.end_all()
        if phase.oversight is not None and not escalation.begun:
            phase.oversight.look(children, time.monotonic(), stopping=stop is not None)
        phase.beat()
        time.sleep(_POLL_SECONDS)
    children.end_all()
    return _end_of(phase, code, time.monotonic() - started, escalation.begun)


def _end_of(phase: Phase, code: int, seconds: float, escalated: bool) -> PhaseEnd:
    words = telling_words(phase)
    if (seen := phase.oversight) is None:
        return PhaseEnd(phase.name, code, round(seconds, 3), escalated, words)
    ended_by_agent = escalated or seen.ended
    return PhaseEnd(
        phase.name, code, round(seconds, 3), ended_by_agent, words, seen.hang, seen.proofs, tuple(seen.named)
    )


class Escalation:
    """When a phase that was asked to leave is sent SIGTERM, and when SIGKILL. It is told the time."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._terminated_at: float | None = None
        self._killed = False

    @property
    def begun(self) -> bool:
        """Whether the phase was sent anything at all."""
        return self._terminated_at is not None

    def due(self, asked_at: float | None, now: float) -> signal.Signals | None:
        """The signal to send now, each one once; `asked_at` is None while nobody asked it to leave."""
        if asked_at is None or now < asked_at + self._grace_seconds:
            return None
        if self._terminated_at is None:
            self._terminated_at = now
            return signal.SIGTERM
        if not self._killed and now >= self._terminated_at + TERM_TO_KILL_SECONDS:
            self._killed = True
            return signal.SIGKILL
        return None


def telling_words(phase: Phase) -> str:
    """The line of a phase's log that says most about its end; for training, the rank that failed first."""
    text = tail(phase.log_path)
    if phase.name != "train":
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    found = _FIRST_FAILURE.search(text)
    return f"rank {found[1]} {describe_exit(int(found[2]))}" if found else ""


def killed_ranks(torchrun_log: Path) -> list[int]:
    """The ranks that died by a signal, as far as torchrun saw it before it ended the others."""
    return [int(rank) for rank in _KILLED_RANK.findall(tail(torchrun_log))]
