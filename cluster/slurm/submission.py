"""Handing a script to SLURM through submitit: its submission and its job handle, without its pickles.

submitit is made to run pickled functions. Our script starts programs, and a run directory holds nothing pickled:
so its executor gets a script that is ready, and none of its result files is ever read. Needed on the machine that
submits only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.contract import ClusterError
from cluster.installing import install_line
from cluster.slurm.refusals import absent, refusal
from cluster.slurm.scheduler import clean_environment

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmJob

SCRIPT = "slurm.sh"


def submit(run_dir: Path, script: str, options: Sequence[str] = (), name: str = SCRIPT) -> SlurmJob[Any]:
    """Submits a script, which stays in the directory for the lives to come; gives submitit's handle of the job.

    The directory is a run's, or a sweep's, whose script is a job array's.

    Args:
        run_dir: Where the script stays.
        script: Its text.
        options: Of `sbatch`, for this submission alone.
        name: What the script is called.

    Raises:
        SlurmError: SLURM refused, or is not here.
        ClusterError: submitit is not installed, or the run directory cannot be written to.
    """
    executor_class, errors = _submitit()
    folder = run_dir / "logs"
    try:
        (run_dir / name).write_text(script, encoding="utf-8")
        executor = executor_class(folder)
    except OSError as error:
        raise ClusterError(f"{run_dir}: cannot be written: {error.strerror}") from error
    except RuntimeError:
        raise absent("sbatch") from None
    executor.script, executor.words = script, [*options, str(run_dir / name)]
    try:
        return executor._submit_command("")
    except errors as error:
        raise refusal("sbatch", _words(error)) from None
    except FileNotFoundError:
        raise absent("sbatch") from None
    finally:
        _clear_away(folder)


def handle(run_dir: Path, job_id: str) -> SlurmJob[Any]:
    """submitit's handle of a job that was submitted before."""
    _submitit()
    from submitit.slurm.slurm import SlurmJob

    return SlurmJob(run_dir / "logs", job_id)


def _submitit() -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise ClusterError("submitting to SLURM needs submitit", install_line("slurm")) from None

    class ScriptExecutor(SlurmExecutor):
        """submitit's SLURM executor with a script that is ready."""

        script = ""
        words: Sequence[str] = ()
        """Of `sbatch`: options, and the script's name."""

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return self.script

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            inherited = sorted(os.environ.keys() - clean_environment().keys())
            unset = [word for name in inherited for word in ("-u", name)]
            # not the file that submitit has just written: this one stays, and has a name that one can find
            return ["env", *unset, "sbatch", *self.words]

    return ScriptExecutor, (FailedJobError, FailedSubmissionError)


def _words(error: Exception) -> str:
    """The scheduler's own, out of the report that submitit makes of a failed command."""
    lines = [line for line in str(error).splitlines() if line.startswith("sbatch:")]
    return "\n".join(lines) or str(error)


def _clear_away(folder: Path) -> None:
    """What submitit leaves: the file that it submitted, whose text is in slurm.sh, and a link to it."""
    for path in [*folder.glob(".submission_file_*.sh"), *folder.glob("*_submission.sh")]:
        with contextlib.suppress(OSError):
            path.unlink()
