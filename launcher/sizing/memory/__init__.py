"""Memory of one rank by phase and component: formulas with their sources, in pure Python."""

from launcher.sizing.memory.limits import Memory, predict_memory
from launcher.sizing.memory.predict import Phase, peak, phases
from launcher.sizing.memory.settings import LOSSES, Adapters, Job, LossKernel, Regime
from rundir.quantities import GIB

__all__ = [
    "GIB",
    "LOSSES",
    "Adapters",
    "Job",
    "LossKernel",
    "Memory",
    "Phase",
    "Regime",
    "peak",
    "phases",
    "predict_memory",
]
