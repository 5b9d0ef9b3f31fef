"""A profile's account and QOS against what accounting allows the user. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.accounting import Accounts, Association, Qos
from cluster.slurm.scheduler.facts import Partition
from launcher.doctor import Check, fail, not_read, ok, warn
from rundir.quantities import count, duration

_YOURS = "`sacctmgr show assoc user=$USER format=account,partition,qos`"


def account_checks(profile: Profile, partition: Partition, accounts: Accounts | None, enforced: str) -> Iterator[Check]:
    """Whether account and QOS are the user's, and what they limit. `enforced` is AccountingStorageEnforce."""
    allowed = partition.accounts
    if profile.account and allowed not in ("", "ALL") and profile.account not in allowed.split(","):
        yield fail("account", f"{profile.account} may not use {partition.name}", f"it takes: {allowed}")
    elif "associations" not in enforced:
        yield ok("account", profile.account or "the site's default")
    elif accounts is None:
        yield not_read("account", "the site asks for one, and sacctmgr does not answer", f"{_YOURS} lists yours")
    else:
        yield from _known(profile, partition, accounts, "qos" in enforced)


def qos_of(profile: Profile, partition: Partition, accounts: Accounts | None) -> Qos | None:
    """The QOS that a job of this profile gets, as far as it is known."""
    if accounts is None:
        return None
    association = accounts.association(profile.account, partition.name)
    name = profile.qos or (association.default_qos if association else "")
    return accounts.qos_named(name or "normal")


def walltime_limit(profile: Profile, partition: Partition, accounts: Accounts | None) -> tuple[float | None, str]:
    """The shortest limit on a job's time in seconds, and whose it is; None without any."""
    qos = qos_of(profile, partition, accounts)
    association = accounts.association(profile.account, partition.name) if accounts else None
    limits = {f"partition {partition.name}": partition.max_time_seconds}
    limits |= {f"QOS {qos.name}": qos.max_wall_seconds} if qos else {}
    limits |= {f"account {association.account}": association.max_wall_seconds} if association else {}
    found = [(seconds, whose) for whose, seconds in limits.items() if seconds is not None]
    return min(found, default=(None, f"partition {partition.name}"))


def _known(profile: Profile, partition: Partition, accounts: Accounts, qos_enforced: bool) -> Iterator[Check]:
    association = accounts.association(profile.account, partition.name)
    if association is None:
        names = accounts.names(partition.name)
        remedy = "ask the site for one: you have none here"
        if names:
            remedy = f"yours in {partition.name}: {', '.join(names)}"
        named = f"you may not use account {profile.account} in {partition.name}"
        yield fail("account", named if profile.account else "none is named, and you have no default account", remedy)
        return
    yield ok("account", association.account + ("" if profile.account else ", your default"))
    if qos_enforced and profile.qos and profile.qos not in association.qos:
        near = get_close_matches(profile.qos, association.qos, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"there is: {', '.join(association.qos)}"
        yield fail("qos", f"account {association.account} may not use QOS {profile.qos}", remedy)
    elif qos := qos_of(profile, partition, accounts):
        yield _qos(profile, qos, association)


def _qos(profile: Profile, qos: Qos, association: Association) -> Check:
    words = qos.name + ("" if profile.qos else f", the default of {association.account}")
    per_node = profile.gpus_per_node or 0
    limits = {"a job": qos.max_gpus_per_job, "a user": qos.max_gpus_per_user, "all together": qos.max_gpus}
    most, of_whom = min(((most, whom) for whom, most in limits.items() if most is not None), default=(None, ""))
    if most is None:
        return ok("qos", words)
    said = f"{words}: {count(most, 'GPU')} of {of_whom}"
    if per_node > most:
        return fail("qos", f"{said}; a node has {per_node}", "choose another QOS, or set gpus_per_node to that")
    if per_node:
        return warn("qos", said, f"keep resources.nodes at {most // per_node} or fewer: larger jobs never start")
    return warn("qos", said, "larger jobs never start")


def preemption_check(profile: Profile, qos: Qos | None, accounts: Accounts | None) -> Check:
    """What a job has left when a QOS takes its nodes."""
    if accounts is None or qos is None:
        remedy = "`sacctmgr show qos format=name,gracetime,preemptmode`"
        return not_read("preemption", "GraceTime is the QOS's", remedy)
    if not accounts.gives_way(qos):
        return ok("preemption", f"jobs of QOS {qos.name} are not preempted")
    return grace_check(f"GraceTime of QOS {qos.name} is {duration(qos.grace_seconds)}", qos.grace_seconds, profile)


def grace_check(words: str, given_seconds: float, profile: Profile) -> Check:
    """The grace period that a profile promises against the site's."""
    asked = profile.preemption.grace_seconds
    if asked is None:
        remedy = f"set `preemption: {{grace_seconds: {given_seconds:g}}}`, so that plans know it"
        return warn("preemption", words, remedy)
    if asked > given_seconds:
        remedy = f"set preemption.grace_seconds to {given_seconds:g}"
        return fail("preemption", f"{words}, the profile says {asked}", remedy)
    if given_seconds == 0:
        return warn("preemption", f"{words}: nothing can be saved", "save often (checkpoint.every_minutes)")
    return ok("preemption", words)
