"""A SLURM profile against its site."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.installing import install_line
from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.commands import Scheduler
from launcher.doctor import FAIL, OK, Check
from launcher.doctor.draft import drafted
from launcher.doctor.folders import folder_checks
from launcher.doctor.machine import version_of
from launcher.doctor.probe import probe
from launcher.doctor.site import Site, site_checks
from launcher.errors import JobError


def report(profile: Profile) -> Iterable[Check]:
    """Everything about a profile and its site.

    Raises:
        SlurmError: the scheduler is not here, or does not answer.
    """
    scheduler = Scheduler()
    site = site_of(scheduler)
    yield from site_checks(profile, site)
    yield from folder_checks(profile, site.config.get("TmpFS", ""))
    version = version_of("submitit")
    yield (
        Check("submitit", OK, version)
        if version
        else Check("submitit", FAIL, "not installed here", install_line("slurm"))
    )
    yield probe(profile, site, scheduler)


def draft(partition: str | None) -> str:
    """A profile drafted from the site, for one of its partitions."""
    site = site_of(Scheduler())
    names = [one.name for one in site.partitions]
    if partition and partition not in names:
        raise JobError(f"no partition is called {partition!r}", f"There is: {', '.join(names)}.")
    return drafted(site, partition)


def site_of(scheduler: Scheduler) -> Site:
    """What the scheduler says about itself."""
    config = scheduler.config()
    accounting = "slurmdbd" in config.get("AccountingStorageType", "")
    accounts = scheduler.accounts(config.get("ClusterName", "")) if accounting else None
    return Site(config, scheduler.partitions(), scheduler.node_facts(), scheduler.version(), accounts)
