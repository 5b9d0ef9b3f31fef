"""What goes wrong between this machine and the machines of a run."""

from __future__ import annotations

from rundir.errors import EXIT_CLUSTER, TuneyardError


class ClusterError(TuneyardError):
    """The scheduler, the cluster or a machine refused, did not answer, or cannot do what is asked."""

    exit_code = EXIT_CLUSTER
