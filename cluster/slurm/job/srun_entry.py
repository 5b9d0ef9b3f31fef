"""`python -m cluster.slurm.job.srun_entry RUN_DIR`: what srun starts once per node. Becomes the node's agent."""

from __future__ import annotations

import os
import sys

from cluster.agent.__main__ import main as agent
from cluster.slurm.job.rendezvous import agent_environment
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED


def main(arguments: list[str]) -> int:
    """The agent's exit code."""
    try:
        os.environ.update(agent_environment(os.environ))
    except TuneyardError as error:
        print(f"agent: {error}", file=sys.stderr)
        return AGENT_FAILED
    return agent(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
