"""The correction that measurements ask for: robust, cautious where there are few, and never below what is counted.

A model's error on one cluster, GPU, engine and method is a factor. Its logarithm is taken to be normal: before any
measurement around 0, as wide as the model's own interval says; one run scatters around the truth by `SCATTER`. The
best guess after n runs is their median shrunk towards 0 by n / (n + (scatter / width) ^ 2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.learning.store import Key, Measurement
from launcher.prediction import Prediction
from launcher.sizing.speed import Speed

NINE_IN_TEN = 1.645
"""Standard deviations within which nine of ten values of a normal distribution lie."""
SCATTER = {"speed": 0.10, "memory": 0.03}
"""Standard deviation of the logarithm from run to run of one kind."""
MEMORY_WIDTH = 1.10
"""Factor around predicted memory within which nine of ten measured peaks lie (docs/accuracy.md)."""
MOST_WIDTHS = 3
"""A correction never exceeds the model's interval to this power: beyond that, something else is wrong."""
ENOUGH_TO_LOOSEN = 3
"""Runs before a correction may say that memory suffices where the model says that it does not."""
COUNTED = ("weights", "gradients", "moments", "master_weights")
"""Components that are counts of numbers: no correction lowers them."""
BEYOND = ("runtime", "fragmentation")
"""What a process needs beside what torch allocates on a GPU."""


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

    def as_json(self) -> dict[str, Any] | None:
        """The correction as it stands in plan.json."""
        return {"factor": self.factor, "runs": self.runs, "rests_on": self.rests_on} if self.runs else None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """All measurements of one cluster; without any, nothing is corrected."""

    measurements: Sequence[Measurement] = ()
    _known: dict[tuple[str, Key, float], Correction] = field(default_factory=dict, compare=False, repr=False)

    def _factor(self, name: str, key: Key, width: float, scatter: float) -> Correction:
        """The correction of one quantity; a plan asks for the same one of hundreds of candidates."""
        asked = (name, key, width)
        if asked not in self._known:
            self._known[asked] = _correction(_ratios(self.measurements, name), key, width, scatter)
        return self._known[asked]

    def speed(self, key: Key, width: float) -> Correction:
        """The factor on seconds.

        Args:
            key: What is to be predicted.
            width: The model's own interval, as a factor.
        """
        return self._factor("step_seconds", key, width, SCATTER["speed"])

    def memory(self, key: Key) -> Correction:
        """The factor on memory; below 1 only with enough runs."""
        found = self._factor("memory", key, MEMORY_WIDTH, SCATTER["memory"])
        if found.factor < 1 and self._runs_of(key) < ENOUGH_TO_LOOSEN:
            return replace(found, factor=1.0)
        return found

    def _runs_of(self, key: Key) -> int:
        """Real runs on this GPU; what was only counted proves nothing of it."""
        here = [one for one in self.measurements if (one.key.cluster, one.key.gpu) == (key.cluster, key.gpu)]
        return sum(one.memory is not None and one.steps > 0 for one in here)


def _ratios(measurements: Sequence[Measurement], name: str) -> list[tuple[Key, float]]:
    pairs = [(one.key, getattr(one, name)) for one in measurements]
    return [(key, pair[1] / pair[0]) for key, pair in pairs if pair]


def _correction(ratios: list[tuple[Key, float]], key: Key, width: float, scatter: float) -> Correction:
    """The finest level at which there are measurements: engine and method, method, or the GPU alone."""
    here = [(known, ratio) for known, ratio in ratios if (known.cluster, known.gpu) == (key.cluster, key.gpu)]
    same = [(known, ratio) for known, ratio in here if known.family == key.family]
    levels = {
        f"{key.family} on {key.engine}": [ratio for known, ratio in same if known.engine == key.engine],
        f"{key.family} on other engines": [ratio for _, ratio in same],
        "other methods": [ratio for _, ratio in here],
    }
    words, found = next(((words, ratios) for words, ratios in levels.items() if ratios), ("", []))
    if not found:
        return Correction(width=width)
    deviation = math.log(width) / NINE_IN_TEN
    weight = len(found) / (len(found) + (scatter / deviation) ** 2)
    most = MOST_WIDTHS * math.log(width)
    factor = min(most, max(-most, weight * statistics.median(math.log(ratio) for ratio in found)))
    left = math.sqrt(deviation**2 * (1 - weight) + scatter**2)
    return Correction(
        factor=math.exp(factor), runs=len(found), rests_on=words, width=min(width, math.exp(NINE_IN_TEN * left))
    )


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
    """The peak without what a process needs beside what torch allocates."""
    return max(sum(size for name, size in parts.items() if name not in BEYOND) for parts in prediction.parts.values())


def corrected_memory(prediction: Prediction, correction: Correction, device: str) -> Prediction:
    """A prediction after correction: what is counted stays, the rest takes the difference.

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
