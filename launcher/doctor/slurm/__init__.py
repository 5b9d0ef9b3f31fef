"""A SLURM profile against its cluster."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.commands import Scheduler
from cluster.submitting.installing import install_line
from launcher.doctor import FAIL, OK, Check
from launcher.doctor.machine import version_of
from launcher.doctor.slurm.cluster_checks import cluster_checks
from launcher.doctor.slurm.cluster_facts import read_cluster_facts
from launcher.doctor.slurm.draft import drafted
from launcher.doctor.slurm.folders import folder_checks
from launcher.doctor.slurm.probe import probe
from launcher.errors import JobError


def report(profile: Profile) -> Iterable[Check]:
    """Everything about a profile and its site.

    Raises:
        SlurmError: the scheduler is not here, or does not answer.
    """
    scheduler = Scheduler()
    facts = read_cluster_facts(scheduler)
    yield from cluster_checks(profile, facts)
    yield from folder_checks(profile, facts.config.get("TmpFS", ""))
    version = version_of("submitit")
    yield (
        Check("submitit", OK, version)
        if version
        else Check("submitit", FAIL, "not installed here", install_line("slurm"))
    )
    yield probe(profile, facts, scheduler)


def draft(partition: str | None) -> str:
    """A profile drafted from the site, for one of its partitions."""
    facts = read_cluster_facts(Scheduler())
    names = [one.name for one in facts.partitions]
    if partition and partition not in names:
        raise JobError(f"no partition is called {partition!r}", f"There is: {', '.join(names)}.")
    return drafted(facts, partition)
