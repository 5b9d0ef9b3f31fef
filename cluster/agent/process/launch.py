"""What the plan asks the agent to start: phases as commands, and the environment they run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.agent.process import rank_entry
from rundir.plan import LaunchSpec

ONLY_WHAT_FOLLOWS = "TUNEYARD_TRAINED"
"""Set where the run is trained, and this node was left alone to export and evaluate."""
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
CODE = Path(__file__).parents[3]


def phase_command(
    launch: LaunchSpec, phase: str, run_dir: Path, attempt: int, node_rank: int = 0, endpoint: str = ""
) -> list[str]:
    """The command of one phase: torchrun for training, one process for everything else.

    `endpoint` is where the agents of several nodes meet; one node needs none.
    """
    if phase != "train":
        return [sys.executable, "-m", "trainer", phase, str(run_dir)]
    return [
        *[sys.executable, "-m", "cluster.agent.process.torchrun"],
        f"--nnodes={launch.nodes}",
        f"--nproc-per-node={launch.ranks_per_node}",
        "--max-restarts=0",
        *_rendezvous(launch, node_rank, endpoint),
        f"--rdzv-id={run_dir.name}-{attempt:03d}",  # ranks of an older attempt can never join
        f"--signals-to-handle={_SIGNALS}",
        f"--log-dir={os.devnull}",  # ranks write their own logs; without this, torchrun litters /tmp
        *["-m", "cluster.agent.process.rank_entry", str(run_dir)],
    ]


def _rendezvous(launch: LaunchSpec, node_rank: int, endpoint: str) -> list[str]:
    if not endpoint:  # one node: do not depend on how its name resolves
        return ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
    # static: the scheduler has said who takes part, and each node's ranks have the numbers that its place gives them
    wait = f"--rdzv-conf=timeout={max(1, round(launch.join_seconds))}"
    return ["--rdzv-backend=static", f"--rdzv-endpoint={endpoint}", f"--node-rank={node_rank}", wait]


def phase_environment(launch: LaunchSpec, attempt: int, log_dir: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of every phase: `base`, and what makes an attempt the same wherever it runs."""
    paths = [path for path in base.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {
        **base,
        "PYTHONPATH": os.pathsep.join([*paths, str(CODE)]),  # `trainer` is found in a checkout, too
        "PYTHONSAFEPATH": "1",  # a folder called trainer where the user stands is not ours
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "OMP_NUM_THREADS": str(launch.threads_per_rank),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, round(launch.grace_seconds))),
        "TUNEYARD_ATTEMPT": str(attempt),
        rank_entry.LOG_DIR: str(log_dir),
        rank_entry.AGENT_PID: str(os.getpid()),
    }
    if launch.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return environment
