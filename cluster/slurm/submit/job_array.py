"""A sweep as one job array: each task becomes the batch script of its own run.

So a task is a run like any other: it is requeued, warned, cancelled and told about alone, as `<array>_<task>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ClusterError
from cluster.slurm.submit.batch_script import in_quotes, option

_OWN = ("job-name", "output", "chdir")
"""Directives that differ between the runs of an array, and that the array has its own of."""
_MARK = "#SBATCH --"


def render_array(folder: Path, run_dirs: Sequence[Path], scripts: Sequence[str], max_parallel: int | None) -> str:
    """The array's script; ClusterError when its runs do not ask for the same machines.

    Args:
        folder: the sweep's; the array's few own words go to its `logs`.
        run_dirs: of the tasks, by number.
        scripts: the runs' own, which lie in their directories as `slurm.sh`.
        max_parallel: so many tasks at a time; None: as many as there are machines for.
    """
    shared = _shared_directives(run_dirs, scripts)
    limit = f"%{max_parallel}" if max_parallel else ""
    log = str(folder / "logs" / "slurm-").replace("%", "%%") + "%A_%a.log"
    directives = [
        option("job-name", folder.name),
        option("output", log),
        option("chdir", str(folder)),
        f"array=0-{len(run_dirs) - 1}{limit}",
        *shared,
    ]
    runs = "".join(f"  {in_quotes(str(run_dir), 'the run directory')}\n" for run_dir in run_dirs)
    return (
        "#!/bin/bash\n"
        + "".join(f"{_MARK}{line}\n" for line in directives)
        + f"\n# Written by `tuneyard sweep`: task N is run N.\nruns=(\n{runs})\n"
        + 'cd "${runs[$SLURM_ARRAY_TASK_ID]}" || exit 1\n'
        + 'exec >>"logs/slurm-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log" 2>&1\n'
        + "exec /bin/bash ./slurm.sh\n"
    )


def _shared_directives(run_dirs: Sequence[Path], scripts: Sequence[str]) -> list[str]:
    found = [_directives(script) for script in scripts]
    for run_dir, theirs in zip(run_dirs, found, strict=True):
        if theirs != found[0]:
            differ = sorted(set(theirs) ^ set(found[0]))
            raise ClusterError(
                f"{run_dir.name} asks for other machines than {run_dirs[0].name}: {', '.join(differ)}",
                "the tasks of a job array are alike: fix resources.nodes and resources.engine, or submit them apart",
            )
    return found[0]


def _directives(script: str) -> list[str]:
    lines = [line.removeprefix(_MARK) for line in script.splitlines() if line.startswith(_MARK)]
    return [line for line in lines if line.partition("=")[0] not in _OWN]
