"""The few kinds of failure that a user of the command line can meet, each with its exit code.

Everything raised on purpose derives from `rundir.errors.TuneyardError`; the command line prints its message without a
traceback and leaves with its `exit_code`. Anything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

from rundir.errors import EXIT_CLUSTER, EXIT_ENVIRONMENT, EXIT_RUN_FAILED, EXIT_USER, TuneyardError


class LauncherError(TuneyardError):
    """A failure of the launcher's own; as text it includes the remedy."""

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class JobError(LauncherError):
    """The job file, the data or the arguments are wrong: the user changes something."""

    exit_code = EXIT_USER


class MachineError(LauncherError):
    """This machine lacks something: a package, a GPU, a writable folder."""

    exit_code = EXIT_ENVIRONMENT


class SchedulerError(LauncherError):
    """The scheduler or the cluster refused or did not answer."""

    exit_code = EXIT_CLUSTER


class RunFailedError(LauncherError):
    """The run itself ended badly."""

    exit_code = EXIT_RUN_FAILED
