"""What is remembered about a submitted run, beside its plan: which release carries it, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from rundir.files import read_json, write_json

STATE = "kubernetes.json"


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The last `submit` of a run. Names are made once, at the first one."""

    release: str
    namespace: str
    context: str
    workload: str
    """`job` or `jobset`."""
    submitted: int
    path: str
    """The run directory in the pods."""
    mirrored: bool
    """Whether the run directory here is a copy."""
    is_over: bool = False
    """Whether the run has ended, and everything about its end is here."""

    def on(self, workload: str) -> Submitted:
        """The same, as another kind of workload."""
        return replace(self, workload=workload)


def read_submitted(run_dir: Path) -> Submitted | None:
    """The last submission; None before the first."""
    found = read_json(run_dir / STATE) or {}
    names = {one.name for one in fields(Submitted)}
    known = {name: value for name, value in found.items() if name in names}
    return Submitted(**known) if names - {"is_over"} <= known.keys() else None


def write_submitted(run_dir: Path, submitted: Submitted) -> None:
    """Remembers the release that carries the run from now on."""
    write_json(run_dir / STATE, asdict(submitted))
