"""One drill: the plan of a short run, the run, the blow, the way back, and what there is to judge it by."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Backend
from cluster.rundir import attempt_log_dir, read_attempts
from launcher.drill.faults import SAVE_EVERY, Blow, Fault
from launcher.drill.scene import PATIENCE_SECONDS, Scene
from launcher.errors import RunFailedError
from launcher.runs.read import metric_lines
from launcher.trainer_process import ask_trainer

KEEP = 3
BACKOFF_SECONDS = 1.0
"""A drill does not wait as long as a run does before it is started again."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a drill is judged by.

    Attributes:
        blow: What was done.
        expected: The checkpoint that the next attempt had to take.
        ever: Every checkpoint that was seen published.
        left: The checkpoints that were there in the end.
        progress: progress.json in the end.
        attempts: All records.
        metrics: All lines of metrics.jsonl, steps that were trained twice standing twice.
        set_aside: Checkpoints that the trainer found damaged and named so.
        num_stacks: Ranks of which the agent wrote down where they stood.
    """

    blow: Blow
    expected: str | None
    ever: set[str]
    left: set[str]
    progress: dict[str, Any]
    attempts: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
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


def rehearse(fault: Fault, run_dir: Path, where: Backend) -> Evidence:
    """Starts the run, deals the blow, and brings the run to its end.

    Raises:
        RunFailedError: the run ended before the blow, or waits for something that does not come.
        cluster.ClusterError: the backend refused.
    """
    scene = Scene(run_dir, where)
    try:
        where.submit(run_dir)
        blow = fault.strike(scene)
        return _way_back(fault, scene, blow)
    except BaseException:
        where.cancel(run_dir)
        raise


def _way_back(fault: Fault, scene: Scene, blow: Blow) -> Evidence:
    scene.until(lambda: scene.attempt(0), "the agent to notice", PATIENCE_SECONDS)
    ever = scene.published()
    expected = max(ever, default=None)
    if not fault.restarts_itself:
        _wait_for_end(scene)
        blow = _damaged(fault, scene, blow)
        expected = ask_trainer("checkpoints", scene.run_dir, "--verify")["resume_from"]
        scene.where.submit(scene.run_dir)
    _wait_for_end(scene)
    folder = scene.run_dir / "checkpoints"
    return Evidence(
        blow=blow,
        expected=expected,
        ever=ever | scene.published(),
        left=scene.published(),
        progress=scene.progress(),
        attempts=read_attempts(scene.run_dir),
        metrics=list(metric_lines(scene.run_dir / "logs" / "metrics.jsonl")),
        set_aside={path.name.removeprefix(".damaged-")[:13] for path in folder.glob(".damaged-*")},
        num_stacks=len(list(attempt_log_dir(scene.run_dir, 0).glob("stacks-rank-*"))),
    )


def _damaged(fault: Fault, scene: Scene, blow: Blow) -> Blow:
    if fault.afterwards is None:
        return blow
    name = fault.afterwards(scene)
    return Blow(time=blow.time, step=blow.step, hit=f"{blow.hit}; one bit of {name}", damaged=name)


def _wait_for_end(scene: Scene) -> None:
    status = scene.where.wait(scene.run_dir, PATIENCE_SECONDS)
    if status.state in ("queued", "running"):
        raise RunFailedError(f"the run has not come back within {PATIENCE_SECONDS:.0f} s")
