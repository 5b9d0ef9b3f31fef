"""Memory of one rank by phase and component: formulas with their sources, in pure Python."""

from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.memory.limits import Memory, predict_memory
from launcher.sizing.memory.predict import Phase, peak, phases

__all__ = ["Memory", "MemoryInput", "Phase", "peak", "phases", "predict_memory"]
