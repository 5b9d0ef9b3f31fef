"""Everything a run directory says about its run, read for people: metrics, attempts, evaluation, plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import ClusterError
from cluster.rundir import (
    EVALUATION,
    METRICS,
    OBSERVED,
    PREFLIGHT,
    read_attempts,
    read_json,
    read_plan,
    read_progress,
)

DEFAULT_BACKEND = "local"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What is known about a run; parts that it has not reached yet are empty."""

    run_dir: Path
    job_text: str
    plan: dict[str, Any]
    progress: dict[str, Any]
    attempts: list[dict[str, Any]]
    training: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    preflight: dict[str, Any]
    evaluation: dict[str, Any]
    observed: dict[str, Any]

    @property
    def name(self) -> str:
        """The job's name."""
        trainer = self.plan.get("trainer")
        return str(trainer.get("name", self.run_dir.name)) if isinstance(trainer, dict) else self.run_dir.name

    @property
    def outcome(self) -> str:
        """Outcome of the newest attempt, or where the run is."""
        if self.attempts and self.attempts[-1].get("outcome"):
            return str(self.attempts[-1]["outcome"])
        return "running" if self.attempts else "planned"


def read_run(run_dir: Path) -> RunData:
    """Reads a run directory.

    Raises:
        cluster.ClusterError: there is no plan, or a JSON file is damaged.
    """
    lines = list(metric_lines(run_dir / METRICS))
    job = run_dir / "job.yaml"
    return RunData(
        run_dir=run_dir,
        job_text=job.read_text(encoding="utf-8", errors="replace") if job.is_file() else "",
        plan=read_plan(run_dir),
        progress=read_progress(run_dir) or {},
        attempts=read_attempts(run_dir),
        training=last_of_each_step(line for line in lines if "loss" in line),
        evaluations=last_of_each_step(line for line in lines if "eval_loss" in line),
        preflight=read_json(run_dir / PREFLIGHT) or {},
        evaluation=read_json(run_dir / EVALUATION) or {},
        observed=read_json(run_dir / OBSERVED) or {},
    )


def backend_name(run_dir: Path) -> str:
    """The backend that a run lives on."""
    launch = read_plan(run_dir).get("launch")
    if not isinstance(launch, dict):
        raise ClusterError(f"{run_dir / 'plan.json'} does not say what to launch", "Submit the job again.")
    return str(launch.get("backend", DEFAULT_BACKEND))


def lies_elsewhere(run_dir: Path) -> str:
    """Where the run's own directory is when the one here is a copy of what tells about it; empty when it is not."""
    state = read_json(run_dir / "kubernetes.json") or {}
    if not state.get("mirrored"):
        return ""
    return f"{state.get('path')} in the pods of namespace {state.get('namespace')}"


def own_directory(run_dir: Path) -> Path:
    """The run's own directory, by its path in the pods when the one here is a copy."""
    state = read_json(run_dir / "kubernetes.json") or {}
    return Path(state.get("path") or run_dir) if state.get("mirrored") else run_dir


def last_of_each_step(lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps in order; a step that was trained again after a crash counts as it was trained last."""
    by_step = {line["step"]: line for line in lines if isinstance(line.get("step"), int)}
    return [by_step[step] for step in sorted(by_step)]


def metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Metrics; a line that was cut off by a crash is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line
