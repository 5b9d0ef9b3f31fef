"""Attempts that ran out of memory although their plan said that they fit: the least that they would have taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import ClusterError
from cluster.rundir import read_attempts, read_json, read_plan
from launcher.calibration.store import OUT_OF_MEMORY, Key, Measurement

PROOFS = {"cuda": ("out_of_memory",), "cpu": ("host_out_of_memory", "host_memory")}
"""Evidence of the node agent that memory of the plan's device ran out."""
OVER = 1.01
"""What ran out took more than the limit by so much at least: no later plan of this size is below it by rounding."""


def exhausted(run_dir: Path) -> Iterator[Measurement]:
    """A measurement for each attempt of a run that trained and ran out of memory."""
    try:
        attempts = [record for record in read_attempts(run_dir) if record.get("outcome") == "fatal"]
        for record in attempts:
            found = _measurement(run_dir, record)
            if found is not None:
                yield found
    except (ClusterError, KeyError, TypeError, ValueError):
        return


def _measurement(run_dir: Path, record: dict[str, Any]) -> Measurement | None:
    plan = _plan_of(run_dir, record)
    prediction, device = plan.get("prediction"), (plan.get("launch") or {}).get("device")
    kinds = {proof.get("kind") for proof in record.get("evidence") or []}
    trained = "train" in (record.get("seconds") or record.get("exit_codes") or {})
    if not prediction or not trained or not kinds.intersection(PROOFS.get(str(device), ())):
        return None
    raw, least = prediction["uncorrected"], int(prediction["limit_bytes"] * OVER)
    if device == "cuda":  # kept as torch allocates it: the process's own needs are no matter of the model
        predicted, observed = raw["allocated_bytes"], least - (raw["peak_bytes"] - raw["allocated_bytes"])
    else:
        predicted, observed = raw["peak_bytes"], least
    if observed <= predicted:
        return None
    return Measurement(
        source=f"{run_dir.name}, attempt {record['attempt']}",
        key=Key(**prediction["measured_as"]),
        time=float(record["ended"]),
        steps=0,
        step_seconds=None,
        memory=(predicted, observed),
        note={OUT_OF_MEMORY: True},
    )


def _plan_of(run_dir: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The plan that an attempt ran: an earlier one where it was changed since."""
    plan = read_plan(run_dir)
    earlier = sum(change["time"] <= record["started"] for change in plan.get("changes") or [])
    return read_json(run_dir / f"plan-{earlier:03d}.json") or plan
