"""The kinds of failure of the command line, each with its exit code.

Every error that is raised on purpose derives from `rundir.errors.TuneyardError`: the command line prints its message
without a traceback and exits with its `exit_code`. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from rundir.errors import EXIT_CLUSTER, EXIT_ENVIRONMENT, EXIT_RUN_FAILED, EXIT_USER, TuneyardError


class LauncherError(TuneyardError):
    """Base of the launcher's errors. `str()` includes the remedy."""

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class JobError(LauncherError):
    """The job file, the data or the arguments are wrong, and the user has to change them."""

    exit_code = EXIT_USER


class MachineError(LauncherError):
    """This machine lacks something: a package, a GPU, a writable folder."""

    exit_code = EXIT_ENVIRONMENT


class SchedulerError(LauncherError):
    """The scheduler or the cluster refused a request or did not answer."""

    exit_code = EXIT_CLUSTER


class RunFailedError(LauncherError):
    """A run, or a command of the trainer, failed."""

    exit_code = EXIT_RUN_FAILED
