"""Measurements from attempts that ran out of memory: a lower bound of what they needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.calibration.store import OUT_OF_MEMORY, Key, Measurement
from rundir.attempts import AttemptRecord, read_attempts
from rundir.errors import RunDirError
from rundir.files import read_json
from rundir.outcome import Outcome
from rundir.plan import Plan, read_plan

PROOFS = {"cuda": ("out_of_memory",), "cpu": ("host_out_of_memory", "host_memory")}
"""Evidence of the node agent that memory of the plan's device ran out."""
OVER = 1.01
"""What ran out took more than the limit by so much at least: no later plan of this size is below it by rounding."""


def out_of_memory_measurements(run_dir: Path) -> Iterator[Measurement]:
    """A measurement for each attempt of a run that trained and ran out of memory."""
    try:
        attempts = [record for record in read_attempts(run_dir) if record.outcome is Outcome.FATAL]
        for record in attempts:
            found = _measurement(run_dir, record)
            if found is not None:
                yield found
    except (RunDirError, KeyError, TypeError, ValueError):
        return


def _measurement(run_dir: Path, record: AttemptRecord) -> Measurement | None:
    plan = _plan_of(run_dir, record)
    prediction, device = plan.prediction, plan.launch.device
    kinds = {proof.kind for proof in record.evidence}
    trained = "train" in (record.seconds or record.exit_codes)
    if not prediction or not trained or record.ended is None or not kinds.intersection(PROOFS.get(device, ())):
        return None
    raw, least = prediction["uncorrected"], int(prediction["limit_bytes"] * OVER)
    if device == "cuda":  # kept as torch allocates it: the process's own needs are no matter of the model
        predicted, observed = raw["allocated_bytes"], least - (raw["peak_bytes"] - raw["allocated_bytes"])
    else:
        predicted, observed = raw["peak_bytes"], least
    if observed <= predicted:
        return None
    return Measurement(
        source=f"{run_dir.name}, attempt {record.number}",
        key=Key(**prediction["measured_as"]),
        time=float(record.ended),
        steps=0,
        step_seconds=None,
        memory=(predicted, observed),
        note={OUT_OF_MEMORY: True},
    )


def _plan_of(run_dir: Path, record: AttemptRecord) -> Plan:
    """The plan that an attempt ran, which may have been changed since."""
    plan = read_plan(run_dir)
    earlier = sum(change.time <= (record.started or 0.0) for change in plan.changes)
    kept = read_json(run_dir / f"plan-{earlier:03d}.json")
    return Plan.from_json(kept) if kept else plan
