"""Corrections from measurements: robust, cautious where there are few, never below what is counted.

A model's error on one cluster, GPU, engine and method is a factor. Its logarithm is taken to be normal: before any
measurement around 0, as wide as the model's own interval says; one run scatters around the truth by `SCATTER`, or by as
much as the runs disagree. The best guess after n runs is their median shrunk towards 0 by
n / (n + (scatter / width) ^ 2), and n runs move a prediction of time by n of the model's intervals at most. The
interval is what is left of the model's, wider where the runs disagree or lie outside of it, and narrower from
`ENOUGH_TO_NARROW` runs on. Runs that were short, or shared their machine, say nothing about time (`speed_doubt`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.calibration.store import Key, Measurement
from launcher.sizing.prediction import BEYOND, Prediction
from launcher.sizing.speed.predict import Speed
from rundir.quantities import count

NINE_IN_TEN = 1.645
"""Standard deviations within which nine of ten values of a normal distribution lie."""
MAD_TO_DEVIATION = 1.4826
"""Standard deviations of a normal distribution in one median distance from its median."""
SCATTER = {"speed": 0.10, "memory": 0.03}
"""Standard deviation of the logarithm from run to run of one kind."""
MEMORY_WIDTH = 1.10
"""Factor around predicted memory within which nine of ten measured peaks lie (docs/accuracy.md)."""
MOST_WIDTHS = 3
"""A correction never exceeds the model's interval to this power: beyond that, something else is wrong."""
ENOUGH_TO_NARROW = 2
"""Runs before an interval may become narrower than the model's own."""
ENOUGH_TO_LOOSEN = 3
"""Runs before a correction may say that memory suffices where the model says that it does not."""
COUNTED = ("weights", "gradients", "moments", "master_weights")
"""Components that are counts of numbers: no correction lowers them."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A factor on a prediction.

    Attributes:
        factor: What to multiply with; 1 leaves the prediction as it is.
        runs: How many measurements it rests on.
        rests_on: Which ones, in words.
        width: Factor to either side within which nine of ten runs are to be expected.
    """

    factor: float = 1.0
    runs: int = 0
    rests_on: str = ""
    width: float = 1.0

    def in_words(self) -> str:
        """What it rests on: `3 runs (lora on zero2)`."""
        return f"{count(self.runs, 'run')} ({self.rests_on})"

    def as_json(self) -> dict[str, Any] | None:
        """The correction as it stands in plan.json."""
        return {"factor": self.factor, "runs": self.runs, "rests_on": self.rests_on} if self.runs else None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All measurements of one cluster; without any, nothing is corrected."""

    measurements: Sequence[Measurement] = ()
    _known: dict[tuple[str, Key, float], Correction] = field(default_factory=dict, compare=False, repr=False)

    def _factor(self, name: str, key: Key, width: float, scatter: float) -> Correction:
        """The correction of one quantity; a plan asks for the same one of hundreds of candidates."""
        asked = (name, key, width)
        if asked not in self._known:
            self._known[asked] = correction_by(_ratios(self.measurements, name), key, width, scatter, name)
        return self._known[asked]

    def speed(self, key: Key, width: float) -> Correction:
        """The factor on seconds.

        Args:
            key: What is to be predicted.
            width: The model's own interval, as a factor.
        """
        return self._factor("step_seconds", key, width, SCATTER["speed"])

    def memory(self, key: Key) -> Correction:
        """The factor on memory; below 1 only with enough runs, and never below what ran out of memory."""
        found, floors = self._factor("memory", key, MEMORY_WIDTH, SCATTER["memory"]), self._exhausted(key)
        if max(floors, default=0.0) > found.factor:
            words = f"{key.family} on {key.engine}, ran out of memory"
            return replace(found, factor=max(floors), runs=len(floors), rests_on=words)
        if found.factor < 1 and self._runs_of(key) < ENOUGH_TO_LOOSEN:
            return replace(found, factor=1.0)
        return found

    def _exhausted(self, key: Key) -> list[float]:
        """Factors above which a plan of a size that ran out of memory does not fit.

        It is no guess around which runs scatter, so it is neither shrunk nor capped. A later run of the same kind
        that was predicted as large and did not run out takes it back: something else had filled the memory.
        """
        same = [one for one in self.measurements if one.key == key and one.memory]
        proofs = [one for one in same if one.ran_out and not any(_refutes(other, one) for other in same)]
        return [one.memory[1] / one.memory[0] for one in proofs if one.memory]

    def _runs_of(self, key: Key) -> int:
        """Real runs on this GPU; counted measurements are no evidence of it."""
        here = [one for one in self.measurements if (one.key.cluster, one.key.gpu) == (key.cluster, key.gpu)]
        return sum(one.memory is not None and one.steps > 0 for one in here)


def _refutes(other: Measurement, proof: Measurement) -> bool:
    """Whether a later run of the same size did not run out of memory."""
    assert other.memory
    assert proof.memory
    lived = not other.ran_out and other.steps > 0 and other.time > proof.time
    return lived and other.memory[0] >= proof.memory[0]


def _ratios(measurements: Sequence[Measurement], name: str) -> list[tuple[Key, float]]:
    pairs = [
        (one.key, getattr(one, name))
        for one in measurements
        if not one.ran_out and not (name == "step_seconds" and one.speed_doubt)
    ]
    return [(key, pair[1] / pair[0]) for key, pair in pairs if pair]


def correction_by(ratios: list[tuple[Key, float]], key: Key, width: float, scatter: float, name: str) -> Correction:
    """The correction from the most specific level that has measurements."""
    words, logs = _nearest(ratios, key)
    if not logs:
        return Correction(width=width)
    most, deviation = MOST_WIDTHS, math.log(width) / NINE_IN_TEN
    if name == "step_seconds":  # too little memory ends a run: that is believed at once, and whatever others say
        most, scatter = min(len(logs), MOST_WIDTHS), max(scatter, _spread(logs))
    weight = len(logs) / (len(logs) + (scatter / deviation) ** 2)
    meant = weight * statistics.median(logs)
    factor = min(most * math.log(width), max(-most * math.log(width), meant))
    left = math.sqrt(deviation**2 * (1 - weight) + scatter**2)
    interval = math.exp(NINE_IN_TEN * left + abs(meant - factor))  # what the bound cut off is still there
    if len(logs) < ENOUGH_TO_NARROW:
        interval = max(width, interval)
    return Correction(factor=math.exp(factor), runs=len(logs), rests_on=words, width=interval)


def _nearest(ratios: list[tuple[Key, float]], key: Key) -> tuple[str, list[float]]:
    """Logarithms of the most similar measurements, and a description of them."""
    here = [(known, math.log(ratio)) for known, ratio in ratios if (known.cluster, known.gpu) == (key.cluster, key.gpu)]
    same = [(known, log) for known, log in here if known.family == key.family]
    levels = {
        f"{key.family} on {key.engine}": [log for known, log in same if known.engine == key.engine],
        f"{key.family} on other engines": [log for _, log in same],
        "other methods": [log for _, log in here],
    }
    return next(((words, logs) for words, logs in levels.items() if logs), ("", []))


def _spread(logs: Sequence[float]) -> float:
    """Standard deviation of runs from the median absolute deviation, which one outlier does not change."""
    middle = statistics.median(logs)
    return statistics.median(abs(log - middle) for log in logs) * MAD_TO_DEVIATION


def corrected_speed(speed: Speed, correction: Correction) -> Speed:
    """A speed after correction; its interval is what is left of the model's."""
    if not correction.runs:
        return speed
    f, per_gpu = correction.factor, speed.tokens_per_gpu / correction.factor
    return replace(
        speed,
        step_seconds=speed.step_seconds * f,
        parts={name: seconds * f for name, seconds in speed.parts.items()},
        tokens_per_second=speed.tokens_per_second / f,
        tokens_per_gpu=per_gpu,
        mfu=speed.mfu / f,
        tflops_per_gpu=speed.tflops_per_gpu / f,
        low=per_gpu / correction.width,
        high=per_gpu * correction.width,
    )


def allocated_bytes(prediction: Prediction) -> int:
    """The peak of what torch allocates."""
    return max(sum(size for name, size in parts.items() if name not in BEYOND) for parts in prediction.parts.values())


def corrected_memory(prediction: Prediction, correction: Correction, device: str) -> Prediction:
    """A corrected prediction: counted components stay, the others take the difference.

    Args:
        prediction: The model's.
        correction: The factor on what torch allocates on a GPU, on what the process holds on the CPU.
        device: `cuda` or `cpu`.
    """
    if correction.factor == 1:
        return prediction
    apart = BEYOND if device == "cuda" else ()
    parts = {phase: _scaled(found, correction.factor, apart) for phase, found in prediction.parts.items()}
    return replace(prediction, parts=parts)


def _scaled(parts: dict[str, int], factor: float, apart: tuple[str, ...]) -> dict[str, int]:
    counted = sum(size for name, size in parts.items() if name in COUNTED)
    rest = {name: size for name, size in parts.items() if name not in COUNTED and name not in apart}
    loose = sum(rest.values())
    if not loose:
        return parts
    scale = max(0.0, factor * (counted + loose) - counted) / loose
    return parts | {name: int(size * scale) for name, size in rest.items()}
