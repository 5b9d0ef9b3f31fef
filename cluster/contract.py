"""What every backend can do, and the words they share. The whole contract fits on this page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rundir.outcome import Outcome, StopReason
from rundir.states import RunState

TYPE_CHECKING = False  # `typing` itself would cost every command 2 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rundir.plan import LaunchSpec, Plan


@dataclass(frozen=True)
class Handle:
    """What `submit` gives back: where the run went, and its number there."""

    backend: str
    id: str
    run_dir: Path


@dataclass(frozen=True)
class Status:
    """Where a run is. `attempt` and `outcome` are those of its newest attempt, None before the first one."""

    state: RunState
    reason: str = ""
    attempt: int | None = None
    outcome: Outcome | None = None


class Backend(ABC):
    """One place where runs can live. A run is named by its run directory, on every backend."""

    name = renders = ""  # the latter is what `rendered` gives: script, manifests

    def require(self, launch: LaunchSpec, runs_dir: Path) -> list[str]:
        """Refuses early, with ClusterError, where nothing can be submitted from; gives warnings."""
        return []

    def rendered(self, run_dir: Path, plan: Plan, job_text: str) -> str:
        """What `submit` would hand over. Writes and starts nothing."""
        return ""

    @abstractmethod
    def submit(self, run_dir: Path) -> Handle:
        """Starts one attempt of the planned run. Refuses while another one is alive."""

    @abstractmethod
    def status(self, run_dir: Path) -> Status:
        """Where the run is now; never raises because a run is unknown."""

    @abstractmethod
    def logs(
        self, run_dir: Path, *, rank: int | None = None, attempt: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Log lines of an attempt (the newest when None), without line ends; `follow` goes on until it has ended.
        `rank` picks one rank's own log; None gives the agent, the phases and rank 0, each line marked with its log."""

    def stop(self, run_dir: Path) -> None:
        """Asks a running run to save at the next step boundary and leave."""
        from rundir.stop import write_stop  # lazily: reading JSON costs every command some milliseconds

        write_stop(run_dir, StopReason.STOPPED, by="tuneyard stop")

    @abstractmethod
    def cancel(self, run_dir: Path) -> None:
        """Ends the run, saving if that fits into the grace period. Returns when nothing of it is left."""

    def fetch_model(self, run_dir: Path, tell: Callable[[int, int], None]) -> Path:
        """Where the model is on this machine, brought here if need be; `tell` hears bytes here, and bytes in all."""
        return run_dir / "model"

    @abstractmethod
    def wait(self, run_dir: Path, timeout_seconds: float | None = None) -> Status:
        """Blocks until the run is neither queued nor running, or the time is up; gives the status then."""
