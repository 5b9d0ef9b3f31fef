"""`python -m cluster.slurm.job.prepare_entry RUN_DIR`: what the job runs that tokenises a run's data on CPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.agent.attempt.prepare import prepare
from cluster.agent.process.node import GENERATION, NODES
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED


def main(arguments: list[str]) -> int:
    """The job's exit code: 0 when the data are there, and the job with the GPUs may begin."""
    here = os.environ
    here[NODES] = here.get("SLURMD_NODENAME", "")
    here[GENERATION] = f"{here.get('SLURM_JOB_ID', '')}.{here.get('SLURM_RESTART_COUNT', '0')}"
    try:
        return prepare(Path(arguments[0]).resolve(), int(here.get("SLURM_CPUS_PER_TASK", "1")))
    except TuneyardError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return AGENT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
