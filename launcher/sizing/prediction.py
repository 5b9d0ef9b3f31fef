"""Predicted memory of one rank, whichever model predicted it: what the planner compares and plan.json holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

BEYOND = ("runtime", "fragmentation")
"""What a process needs beside what torch allocates on a GPU."""
UNKNOWN = "unknown_architecture"
"""What is left free because nobody described the model's architecture."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Memory of one rank in bytes.

    Attributes:
        num_parameters: Parameters of the model, adapters included.
        num_trainable: Those that train.
        parts: In each phase of a step the components that are alive in it.
    """

    num_parameters: int
    num_trainable: int
    parts: dict[str, dict[str, int]]

    @property
    def components(self) -> dict[str, int]:
        """Bytes of each component, where it is largest."""
        found: dict[str, int] = {}
        for parts in self.parts.values():
            found |= {name: max(size, found.get(name, 0)) for name, size in parts.items()}
        return found

    @property
    def phases(self) -> dict[str, int]:
        """Bytes in each phase of a step."""
        return {phase: sum(parts.values()) for phase, parts in self.parts.items()}

    @property
    def binding_phase(self) -> str:
        """The phase that needs most."""
        phases = self.phases
        return max(phases, key=lambda phase: phases[phase])

    @property
    def peak_bytes(self) -> int:
        """What the binding phase needs."""
        return max(self.phases.values())

    def binding_components(self) -> dict[str, int]:
        """The components that are alive in the binding phase; they add up to the peak."""
        return {name: size for name, size in self.parts[self.binding_phase].items() if size}

    def as_json(self) -> dict[str, Any]:
        """The prediction as it stands in plan.json."""
        return {
            "parameters": self.num_parameters,
            "trainable_parameters": self.num_trainable,
            "components_bytes": self.components,
            "binding_components_bytes": self.binding_components(),
            "phases_bytes": self.phases,
            "binding_phase": self.binding_phase,
            "peak_bytes": self.peak_bytes,
        }


def widened(prediction: Prediction, share: float) -> Prediction:
    """A prediction with room for what is not known about the model: a share of what is allocated, in every phase."""
    if not share:
        return prediction
    own = {
        phase: sum(size for name, size in parts.items() if name not in BEYOND)
        for phase, parts in prediction.parts.items()
    }
    return replace(
        prediction,
        parts={phase: parts | {UNKNOWN: int(share * own[phase])} for phase, parts in prediction.parts.items()},
    )
