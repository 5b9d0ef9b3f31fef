"""Measurements of a run: predictions from plan.json, observations from observed.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher.calibration.out_of_memory import out_of_memory_measurements
from launcher.calibration.store import Key, Measurement, append, read, removed, store_path
from launcher.errors import MachineError
from rundir.errors import RunDirError
from rundir.observed import Observed, read_observed
from rundir.paths import RunPaths
from rundir.plan import Plan, read_plan


def measurements_of(run_dir: Path) -> list[Measurement]:
    """All measurements of a run: attempts that ran out of memory, and observations at its end."""
    whole = measurement_of(run_dir)
    return [*out_of_memory_measurements(run_dir), *([whole] if whole else [])]


def all_measurements(store: Path, runs: Iterable[Path]) -> list[Measurement]:
    """Measurements in a store, and those of runs that are not recorded in it yet."""
    stored = read(store)
    known = {one.source for one in stored} | removed(store)
    return [*stored, *(one for run in runs for one in measurements_of(run) if one.source not in known)]


def measurement_of(run_dir: Path) -> Measurement | None:
    """The measurement of a run; `None` if plan or observations lack what is compared."""
    try:
        prediction, observed = read_plan(run_dir).prediction, read_observed(run_dir)
        key = Key(**prediction["measured_as"])
        memory = _memory(prediction, observed.memory_bytes)
        written = RunPaths(run_dir).observed.stat().st_mtime
    except (RunDirError, KeyError, TypeError, OSError):
        return None
    if not observed.memory_bytes or observed.steps is None:
        return None
    return Measurement(
        source=run_dir.name,
        key=key,
        time=written,
        steps=observed.steps,
        step_seconds=_seconds(prediction, observed),
        memory=memory,
        note={name: observed.to_json().get(name) for name in ("device_name", "world_size", "torch", "load")},
    )


def _seconds(prediction: dict[str, Any], observed: Observed) -> tuple[float, float] | None:
    """Predicted and observed seconds of a step, scaled to full packs."""
    predicted = prediction["uncorrected"].get("step_seconds")
    if not predicted or not observed.fill or not observed.step_seconds:
        return None
    return predicted, observed.step_seconds / observed.fill


def _memory(prediction: dict[str, Any], found: Mapping[str, float]) -> tuple[int, int] | None:
    """Predicted and observed bytes: allocated by torch on GPUs, resident on the CPU."""
    raw = prediction["uncorrected"]
    seen = found.get("allocated") or found.get("process")
    predicted = raw["allocated_bytes"] if found.get("allocated") else raw["peak_bytes"]
    return (predicted, int(seen)) if seen and predicted else None


def store_of(plan: Plan) -> Path:
    """The store of the cluster that a plan is for."""
    return store_path(plan.launch.run_root or None)


def record_run(run_dir: Path) -> None:
    """Adds a run's measurements to its cluster's store unless they are there already. Never raises."""
    found = measurements_of(run_dir)
    if not found:
        return
    try:
        path = store_of(read_plan(run_dir))
        known, gone = read(path), removed(path)
        new = [one for one in found if one.source not in gone and not any(_same(one, other) for other in known)]
        if new:
            append(path, new)
    except (RunDirError, MachineError):
        return


def _same(one: Measurement, other: Measurement) -> bool:
    return one.source == other.source and one.steps == other.steps and one.step_seconds == other.step_seconds


def comparison(plan: Plan, observed: Observed) -> list[tuple[str, float, float]]:
    """Predicted and observed, by name, where both are known: seconds, and bytes of memory."""
    prediction, memory, parts = plan.prediction, observed.memory_bytes, observed.components_bytes
    raw = prediction.get("uncorrected") or {}
    gpu = bool(memory.get("allocated"))
    pairs = {
        "step seconds": (prediction.get("step_seconds"), observed.step_seconds),
        "tokens per second": (prediction.get("tokens_per_second"), observed.tokens_per_second),
        "allocated": (raw.get("allocated_bytes"), memory.get("allocated")),
        "process" if gpu else "resident memory": (prediction.get("peak_bytes"), memory.get("process")),
        **{
            f"of it {n.replace('_', ' ')}": (prediction.get("components_bytes", {}).get(n), parts.get(n)) for n in parts
        },
    }
    return [(name, said, seen) for name, (said, seen) in pairs.items() if said and seen]
