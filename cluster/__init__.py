"""How a run gets to the machines, how we know that it lives, and who restarts it.

`backend(name)` gives one of the places where runs can live; all of them honour `cluster.contract`.
Importing this package costs almost nothing: a backend is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module

from cluster.contract import Backend, Handle, Status
from cluster.errors import ClusterError
from rundir.outcome import Outcome

__all__ = ["Backend", "ClusterError", "Handle", "Outcome", "Status", "BACKENDS", "backend"]

BACKENDS = {
    "local": "cluster.local.backend:LocalBackend",
    "slurm": "cluster.slurm.backend:SlurmBackend",
    "kubernetes": "cluster.kubernetes.backend:KubernetesBackend",
}
"""Where each backend lives, by the name that a job file uses."""


def backend(name: str) -> Backend:
    """The backend of that name, imported now."""
    if name not in BACKENDS:
        raise ClusterError(f"no backend is called {name!r}", f"use one of: {', '.join(sorted(BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    made: Backend = getattr(import_module(module), attribute)()
    return made
