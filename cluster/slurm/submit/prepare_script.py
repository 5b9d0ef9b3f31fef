"""The job that tokenises a run's data on CPUs, before the job with the GPUs is taken: its script, as text.

`python -m cluster.slurm.job.prepare_entry RUN_DIR` is what that job runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.slurm.submit.batch_script import (
    SbatchJob,
    SbatchSettings,
    clock,
    code_folder,
    container_words,
    option,
    quoted,
    setup_lines,
)
from cluster.slurm.submit.batch_script import variable_names as names_of

SCRIPT = "prepare.sh"
JOB = "job"
"""`prepare.where` of a plan whose data are tokenised in a job of their own."""
_OF_GPUS = ("gpu-", "gres-", "mem-per-")
_TEXT = """\
#!/bin/bash
@directives@

# Written by `tuneyard submit`: tokenises the data of a run before its GPUs are taken.
run_dir=@run_dir@
python=@python@
code=@code@
container=(@container@)

@setup@
set -u
unset SLURM_EXPORT_ENV # srun would take the job's own environment away from its tasks
export TUNEYARD_SCHEDULER=slurm TUNEYARD_SUBMITTED=@submitted@ PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
if [ -n "$code" ]; then export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$code"; fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
exec srun --export=ALL --nodes=1 --ntasks=1 ${container[@]+"${container[@]}"} \
  "$python" -m cluster.slurm.job.prepare_entry "$run_dir"
"""


def render_prepare(job: SbatchJob, site: SbatchSettings) -> str:
    """The whole script.

    Raises:
        ClusterError: it names a value that no script can carry.
    """
    parts = {
        "@directives@": "\n".join(f"#SBATCH --{line}" for line in _directives(job, site)),
        "@run_dir@": quoted(job.run_dir, "the run directory"),
        "@python@": quoted(site.python or job.python, "python"),
        "@code@": quoted(code_folder(job, site), "the code's folder"),
        "@container@": container_words(job, site),
        "@setup@": "\n".join(setup_lines(site)),
        "@submitted@": f"{job.submitted:.3f}",
    }
    pieces = re.split(f"({'|'.join(map(re.escape, parts))})", _TEXT)  # cut at the marks: values are not looked into
    return "".join(parts.get(piece, piece) for piece in pieces)


def _directives(job: SbatchJob, site: SbatchSettings) -> Iterator[str]:
    asked = site.prepare
    yield option("job-name", f"{job.run_dir.name}-prepare")
    yield option("output", str(job.run_dir / "logs" / "slurm-prepare-").replace("%", "%%") + "%j.log")
    yield "open-mode=append"
    yield option("chdir", str(job.run_dir))
    yield from ("nodes=1", "ntasks=1")
    yield f"cpus-per-task={asked.get('cpus') or 1}"
    if asked.get("walltime_seconds"):
        yield f"time={clock(asked['walltime_seconds'])}"
    yield "requeue" if site.requeue else "no-requeue"
    for name in ("partition", "account", "qos", "constraint"):
        if value := asked.get(name):
            yield option(name, value)
    if site.comment:
        yield option("comment", site.comment)
    if asked.get("memory"):
        yield option("mem", asked["memory"])
    for name, value in site.directives.items():
        if value is not False and not name.startswith(_OF_GPUS):
            yield name if value is True else option(name, str(value))
    yield option("export", ",".join(names_of(site.forward)) or "NONE")
