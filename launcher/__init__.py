"""What should run, does it fit, and why: the job file, sizing, the planner, the command line and the report.

Importing this package, or any module in it, never imports torch, transformers or datasets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.planner.ask.estimate import Estimate, estimate

__all__ = ["Estimate", "__version__", "estimate"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """What `from launcher import estimate` means, imported only then: `tuneyard --help` stays quick."""
    if name in ("estimate", "Estimate"):
        from launcher.planner.ask import estimate as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
