"""How an attempt ends, why it is asked to stop, and what follows from either. The only tables over these words."""

from __future__ import annotations

from enum import StrEnum

from rundir.errors import EXIT_OK, EXIT_RUN_FAILED, EXIT_SAVED, EXIT_USER

AGENT_FAILED = 1
"""Exit code of an agent that could not do its work: another one is alive on this run, or it broke."""
RESTART_ME = EXIT_SAVED
"""Exit code of an agent that asks its scheduler to start it again."""
GAVE_UP = 3
"""Exit code of an agent whose run is not restarted although it has not finished."""


class Outcome(StrEnum):
    """How an attempt ended: the same words on every backend."""

    FINISHED = "finished"
    PREEMPTED = "preempted"
    WALLTIME = "walltime"
    NODE_FAILURE = "node_failure"
    HANG = "hang"
    CRASHED = "crashed"
    FATAL = "fatal"  # never retried: bad config, bad data, out of memory
    STOPPED = "stopped"  # by the user

    @classmethod
    def parse(cls, value: object) -> Outcome | None:
        """The outcome that a file names; None where it names none. A newer version's word counts as CRASHED."""
        if value is None:
            return None
        try:
            return cls(str(value))
        except ValueError:
            return cls.CRASHED

    @property
    def is_terminal(self) -> bool:
        """Whether the run is never restarted after it."""
        return self in _NO_RESTART

    @property
    def reason_to_stop(self) -> str:
        """Why the run is never restarted after it; empty when it may be."""
        return _NO_RESTART.get(self, "")

    @property
    def is_fault(self) -> bool:
        """Whether it counts against the budget of crashes."""
        return self in (Outcome.CRASHED, Outcome.HANG)

    @property
    def is_interruption(self) -> bool:
        """Whether something went wrong or machines were taken away; counted for the mean time between failures."""
        return self not in (Outcome.FINISHED, Outcome.STOPPED)

    @property
    def was_requested(self) -> bool:
        """Whether a stop request led to it."""
        return self in (Outcome.STOPPED, Outcome.PREEMPTED, Outcome.WALLTIME)

    @property
    def may_be_lost_node(self) -> bool:
        """Whether a lost node looks like this to those who are left."""
        return self in (Outcome.PREEMPTED, Outcome.CRASHED, Outcome.NODE_FAILURE)

    @property
    def is_bad(self) -> bool:
        """Whether the attempt itself ended badly, and not because it was asked to leave."""
        return self in (Outcome.CRASHED, Outcome.FATAL, Outcome.HANG, Outcome.NODE_FAILURE)

    @property
    def exit_code(self) -> int:
        """What a command that followed the run leaves with."""
        if self is Outcome.FINISHED:
            return EXIT_OK
        return EXIT_SAVED if self.was_requested else EXIT_RUN_FAILED

    def agent_exit_code(self, restarts: bool) -> int:
        """What the agent leaves with. `restarts`: the restart policy wants another attempt."""
        known = {Outcome.FINISHED: EXIT_OK, Outcome.STOPPED: RESTART_ME, Outcome.FATAL: EXIT_USER}
        return known.get(self, RESTART_ME if restarts else GAVE_UP)

    @property
    def label(self) -> str:
        """As people read it: `node failure`."""
        return self.value.replace("_", " ")

    @property
    def ending(self) -> str:
        """The rest of a sentence that begins with the run: `was preempted`."""
        return _ENDINGS[self]


class StopReason(StrEnum):
    """Why a run is asked to save and leave."""

    PREEMPTED = "preempted"
    WALLTIME = "walltime"
    STOPPED = "stopped"  # by the user

    @classmethod
    def parse(cls, value: object) -> StopReason:
        """The reason that a file gives; anything unknown counts as a user's."""
        return next((reason for reason in cls if reason.value == value), cls.STOPPED)

    @property
    def outcome(self) -> Outcome:
        """How an attempt ends that leaves for this reason."""
        return Outcome(self.value)


_NO_RESTART = {
    Outcome.FINISHED: "the run is finished",
    Outcome.STOPPED: "the run was stopped on request",
    Outcome.FATAL: "the same job would fail the same way again",
}
_ENDINGS = {
    Outcome.FINISHED: "finished",
    Outcome.STOPPED: "was stopped",
    Outcome.PREEMPTED: "was preempted",
    Outcome.WALLTIME: "reached its walltime",
    Outcome.HANG: "hung",
    Outcome.CRASHED: "crashed",
    Outcome.FATAL: "failed for good",
    Outcome.NODE_FAILURE: "lost its node",
}
