"""The `launch` part of plan.json: what the node agent starts, and how it watches over it."""

from __future__ import annotations

from typing import Any

from launcher.jobfile.schema import JobFile
from launcher.planner.choice.oom_remedy import out_of_memory
from launcher.planner.choice.select import Choice
from launcher.planner.layouts.candidates import PlanningContext
from rundir.quantities import walltime_seconds

MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
CHECKPOINT_BYTES_PER_PARAMETER = 12
"""A float32 parameter and its two moments."""


def launch_json(
    job: JobFile, choice: Choice, context: PlanningContext, threads: int, grace_seconds: int
) -> dict[str, Any]:
    """What the node agent reads; every key is described in docs/run-directory.md."""
    step_layout = choice.step_layout
    launch: dict[str, Any] = {
        "nodes": step_layout.nodes,
        "ranks_per_node": step_layout.ranks_per_node,
        "device": step_layout.device,
        "threads_per_rank": threads,
        "grace_seconds": grace_seconds,
        "grace_is_auto": job.resources.grace_seconds == "auto",
        "phases": ["prepare", "train", "export"] + (["evaluate"] if job.evaluation.generate else []),
        **_watching(job),
        "health": _health(job, choice),
        "afterwards": ["-m", "launcher.cli", "report"],
        "remedies": {"out_of_memory": out_of_memory(job, choice, context)},
    }
    if job.resources.walltime:
        launch["walltime_seconds"] = walltime_seconds(job.resources.walltime)
    return launch


def _watching(job: JobFile) -> dict[str, Any]:
    asked = job.resources
    return {
        "hang_seconds": None if asked.hang_minutes is None else 60 * asked.hang_minutes,
        "start_seconds": 60 * asked.start_minutes,
        "restart": {
            "auto": asked.restart,
            "max_crashes": asked.max_crashes,
            "max_attempts_without_progress": MAX_ATTEMPTS_WITHOUT_PROGRESS,
        },
    }


def _health(job: JobFile, choice: Choice) -> dict[str, Any]:
    """Health checks, and the disk and host memory that must be free."""
    prediction, step_layout = choice.candidate.prediction, choice.step_layout
    trainable = prediction.num_trainable if prediction else 0
    peak = prediction.peak_bytes if prediction and step_layout.device == "cpu" else 0
    return {
        "checks": job.resources.health_checks,
        "skip": job.resources.skip_health_checks,
        "free_disk_bytes": CHECKPOINT_BYTES_PER_PARAMETER * trainable * (job.checkpoint.keep + 1),
        "free_memory_bytes": peak * step_layout.ranks_per_node,
    }
