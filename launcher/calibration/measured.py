"""Results of `tuneyard measure` beside the plan's prediction for one rank."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from launcher.calibration.store import Key, Measurement

PHASES = {"forward and backward": ("forward", "loss", "backward", "backward_end", "backward_root"), "step": ("step",)}
"""The models' phases within each that can be measured."""


class Row(NamedTuple):
    """One line of the comparison; `unit` is `bytes` or `seconds`."""

    name: str
    predicted: float
    measured: float
    unit: str


def compared(plan: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    """Rows for components, the peak of each phase, the overall peak, and time if measured."""
    prediction = plan["prediction"]
    components, phases = prediction["components_bytes"], prediction["allocated_phases_bytes"]
    rows = [
        Row(name.replace("_", " "), components.get(name, 0), found["components_bytes"][name], "bytes")
        for name in ("weights", "master_weights", "gradients", "moments")
        if components.get(name) or found["components_bytes"][name]
    ]
    for name, ours in PHASES.items():
        predicted = max((phases[phase] for phase in ours if phase in phases), default=0)
        rows.append(Row(name, predicted, found["phases_bytes"][name], "bytes"))
    rows.append(Row("allocated", prediction["uncorrected"]["allocated_bytes"], found["allocated_bytes"], "bytes"))
    seconds = _alone(prediction)
    if found["step_seconds"] and seconds:
        rows.append(Row("step, alone", seconds, found["step_seconds"], "seconds"))
    return rows


def _alone(prediction: dict[str, Any]) -> float | None:
    """Predicted seconds of a step without communication."""
    seconds, parts = prediction["uncorrected"]["step_seconds"], prediction.get("step_parts_seconds") or {}
    return seconds - parts.get("communication", 0.0) if seconds else None


def measurement_of_plan(plan: dict[str, Any], found: dict[str, Any], source: str) -> Measurement:
    """The measurement as it is kept: memory as torch allocates it on GPUs; of the CPU, whose runs are kept by
    resident memory, time alone."""
    prediction, on_gpu = plan["prediction"], plan["launch"]["device"] == "cuda"
    seconds = _alone(prediction) if found["step_seconds"] else None
    return Measurement(
        source=source,
        key=Key(**prediction["measured_as"]),
        time=time.time(),
        steps=0 if found["counted"] else 2,
        step_seconds=(seconds, found["step_seconds"]) if seconds else None,
        memory=(prediction["uncorrected"]["allocated_bytes"], found["allocated_bytes"]) if on_gpu else None,
        note={"rank": found["rank"], "world_size": found["world_size"], "counted": found["counted"]},
    )
