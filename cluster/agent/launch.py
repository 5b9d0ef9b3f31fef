"""What the plan asks the agent to start: phases as commands, and the environment they run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cluster.agent import rank
from cluster.contract import ClusterError
from cluster.policy import Limits

PHASES = ("prepare", "train", "export", "evaluate")
ONLY_WHAT_FOLLOWS = "TUNEYARD_TRAINED"
"""Set where the run is trained, and this node was left alone to export and evaluate."""
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
_MAY_BE_NULL = ("hang_seconds", "start_seconds")
CODE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Launch:
    """plan.json's `launch`; docs/run-directory.md describes the keys."""

    nodes: int
    ranks_per_node: int
    device: str
    threads_per_rank: int
    grace_seconds: float
    phases: tuple[str, ...]
    hang_seconds: float | None = 900.0
    start_seconds: float | None = 3600.0
    join_seconds: float = 600.0
    silence_seconds: float = 180.0
    restart: Limits = field(default_factory=Limits)
    health: Mapping[str, Any] = field(default_factory=dict)
    remedies: Mapping[str, str] = field(default_factory=dict)
    afterwards: tuple[str, ...] = ()

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> Launch:
        """Reads it out of a plan; ClusterError names what is missing or cannot be started."""
        given = plan.get("launch")
        given = given if isinstance(given, dict) else {}
        if missing := [name for name in _required(cls) if given.get(name) is None]:
            raise ClusterError(f"plan.json: launch lacks {', '.join(missing)}", "plan the job again")
        known = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        known = {name: value for name, value in known.items() if value is not None or name in _MAY_BE_NULL}
        launch = cls(**{**known, "restart": Limits.from_plan(plan)})
        if unknown := [phase for phase in launch.phases if phase not in PHASES]:
            raise ClusterError(f"plan.json: launch.phases has unknown {', '.join(map(str, unknown))}")
        return launch

    def after_training(self) -> Launch:
        """What is left of a run that is trained: one node does it, and no phase looks for the others."""
        return replace(self, nodes=1, phases=self.phases[self.phases.index("train") + 1 :])


def _required(kind: type[Launch]) -> list[str]:
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def phase_command(
    launch: Launch, phase: str, run_dir: Path, attempt: int, node_rank: int = 0, endpoint: str = ""
) -> list[str]:
    """The command of one phase: torchrun for training, one process for everything else.

    `endpoint` is where the agents of several nodes meet; one node needs none.
    """
    if phase != "train":
        return [sys.executable, "-m", "trainer", phase, str(run_dir)]
    return [
        *[sys.executable, "-m", "cluster.agent.torchrun"],
        f"--nnodes={launch.nodes}",
        f"--nproc-per-node={launch.ranks_per_node}",
        "--max-restarts=0",
        *_rendezvous(launch, node_rank, endpoint),
        f"--rdzv-id={run_dir.name}-{attempt:03d}",  # ranks of an older attempt can never join
        f"--signals-to-handle={_SIGNALS}",
        f"--log-dir={os.devnull}",  # ranks write their own logs; without this, torchrun litters /tmp
        *["-m", "cluster.agent.rank", str(run_dir)],
    ]


def _rendezvous(launch: Launch, node_rank: int, endpoint: str) -> list[str]:
    if not endpoint:  # one node: do not depend on how its name resolves
        return ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
    # static: the scheduler has said who takes part, and each node's ranks have the numbers that its place gives them
    wait = f"--rdzv-conf=timeout={max(1, round(launch.join_seconds))}"
    return ["--rdzv-backend=static", f"--rdzv-endpoint={endpoint}", f"--node-rank={node_rank}", wait]


def phase_environment(launch: Launch, attempt: int, log_dir: Path, base: Mapping[str, str]) -> dict[str, str]:
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
        rank.LOG_DIR: str(log_dir),
        rank.AGENT_PID: str(os.getpid()),
    }
    if launch.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return environment
