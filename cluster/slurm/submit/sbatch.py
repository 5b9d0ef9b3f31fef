"""Handing a script to SLURM, and submitit's handle of the job. Needed on the machine that submits only.

submitit submits pickled functions. A run directory holds nothing pickled, so our script goes to `sbatch` as it is, and
submitit's public `SlurmJob` stands for the job from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.slurm.scheduler.commands import Scheduler
from cluster.submitting.installing import install_line

if TYPE_CHECKING:
    import submitit

SCRIPT = "slurm.sh"


def submit(
    scheduler: Scheduler, folder: Path, script: str, options: Sequence[str] = (), name: str = SCRIPT
) -> submitit.SlurmJob[Any]:
    """Submits a script, which stays in the folder for the attempts to come; gives submitit's handle of the job.

    Args:
        scheduler: Takes it.
        folder: A run's directory, or a sweep's, whose script is a job array's.
        script: Its text.
        options: Of `sbatch`, for this submission alone.
        name: What the script is called.

    Raises:
        SlurmError: SLURM refused, or is not here.
        ClusterError: submitit is not installed, or the folder cannot be written to.
    """
    _require_submitit()
    try:
        (folder / name).write_text(script, encoding="utf-8")
    except OSError as error:
        raise ClusterError(f"{folder}: cannot be written: {error.strerror}") from error
    return handle(folder, scheduler.sbatch(folder / name, *options))


def handle(folder: Path, job_id: str) -> submitit.SlurmJob[Any]:
    """submitit's handle of a job that was submitted before."""
    _require_submitit()
    import submitit

    return submitit.SlurmJob(folder / "logs", job_id)


def _require_submitit() -> None:
    try:
        import submitit  # noqa: F401  # imported here: a node has none, and `tuneyard --help` needs none
    except ImportError:
        raise ClusterError("submitting to SLURM needs submitit", install_line("slurm")) from None
