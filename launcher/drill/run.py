"""One drill: the plan of a short run, the run with its fault, its restart, and what there is to judge it by."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import Backend
from launcher.drill.faults import SAVE_EVERY, Fault, InjectedFault
from launcher.drill.target import PATIENCE_SECONDS, DrillTarget
from launcher.errors import RunFailedError
from launcher.trainer_process import ask_trainer
from rundir.attempts import AttemptRecord, read_attempts
from rundir.metrics import Metrics, read_metrics
from rundir.paths import RunPaths
from rundir.progress import Progress

KEEP = 3
BACKOFF_SECONDS = 1.0
"""A drill does not wait as long as a run does before it is started again."""


@dataclass(frozen=True, kw_only=True)
class DrillResult:
    """Everything that a drill is judged by.

    Attributes:
        injected: The fault.
        expected: The checkpoint that the next attempt had to take.
        ever: Every checkpoint that was seen published.
        left: The checkpoints that were there in the end.
        progress: progress.json in the end.
        attempts: All records.
        metrics: All lines of metrics.jsonl, steps that were trained twice standing twice.
        set_aside: Checkpoints that the trainer found damaged and named so.
        num_stacks: Ranks of which the agent wrote down where they stood.
    """

    injected: InjectedFault
    expected: str | None
    ever: set[str]
    left: set[str]
    progress: Progress
    attempts: list[AttemptRecord]
    metrics: list[Metrics]
    set_aside: set[str]
    num_stacks: int = 0


def drill_plan(plan: dict[str, Any], fault: Fault, steps: int, hang_seconds: float) -> dict[str, Any]:
    """The job's plan, cut down to a rehearsal: few steps, many saves, bits that can be compared."""
    short = copy.deepcopy(plan)
    trainer, launch = short["trainer"], short["launch"]
    trainer["training"] |= {"max_steps": max(steps, fault.least_steps), "full_determinism": True}
    trainer["checkpoint"] = {"every_steps": SAVE_EVERY, "every_minutes": None, "keep": KEEP}
    trainer["evaluation"] |= {"every_steps": None, "generate": None}
    trainer["data"]["eval"] = {"split": 0.0, "path": None}
    trainer["logging"] = {"every_seconds": 0, "tensorboard": False}
    launch |= {"phases": ["prepare", "train"], "hang_seconds": hang_seconds, "afterwards": []}
    launch["restart"] = launch["restart"] | {"auto": True, "max_crashes": 1, "backoff_seconds": BACKOFF_SECONDS}
    launch.pop("walltime_seconds", None)
    return short


def share_data(prepared: Path, run_dir: Path) -> None:
    """Gives a run the tokenised data of another one without copying it."""
    shutil.copytree(prepared / "data", run_dir / "data", copy_function=os.link)


def run_drill(fault: Fault, run_dir: Path, where: Backend) -> DrillResult:
    """Starts the run, injects the fault, and brings the run to its end.

    Raises:
        RunFailedError: the run ended before the fault came, or waits for something that does not come.
        cluster.ClusterError: the backend refused.
    """
    target = DrillTarget(run_dir, where)
    try:
        where.submit(run_dir)
        injected = fault.inject(target)
        return _restart(fault, target, injected)
    except BaseException:
        where.cancel(run_dir)
        raise


def _restart(fault: Fault, target: DrillTarget, injected: InjectedFault) -> DrillResult:
    target.until(lambda: target.attempt(0), "the agent to notice", PATIENCE_SECONDS)
    ever = target.published()
    expected = max(ever, default=None)
    if not fault.restarts_itself:
        _wait_for_end(target)
        if fault.afterwards is not None:
            name = fault.afterwards(target)
            injected = replace(injected, hit=f"{injected.hit}; one bit of {name}", damaged=name)
        expected = ask_trainer("checkpoints", target.run_dir, "--verify")["resume_from"]
        target.where.submit(target.run_dir)
    _wait_for_end(target)
    folder = target.run_dir / "checkpoints"
    return DrillResult(
        injected=injected,
        expected=expected,
        ever=ever | target.published(),
        left=target.published(),
        progress=target.progress(),
        attempts=read_attempts(target.run_dir),
        metrics=list(read_metrics(target.run_dir)),
        set_aside={path.name.removeprefix(".damaged-")[:13] for path in folder.glob(".damaged-*")},
        num_stacks=len(list(RunPaths(target.run_dir).attempt_logs(0).glob("stacks-rank-*"))),
    )


def _wait_for_end(target: DrillTarget) -> None:
    status = target.where.wait(target.run_dir, PATIENCE_SECONDS)
    if status.state.is_alive:
        raise RunFailedError(f"the run has not come back within {PATIENCE_SECONDS:.0f} s")
