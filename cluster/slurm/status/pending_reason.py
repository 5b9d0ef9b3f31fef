"""Why a job waits: SLURM's reason code and what else was read, in words, with what to do. Pure functions.

What was not read is said to be so; nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.status.limits import Limit, Reason, limit_in_force, reason_code, reason_of
from cluster.slurm.status.scheduler_facts import SchedulerFacts
from cluster.submitting.pending import WAIT, Explanation
from rundir.quantities import count, duration

_SEE_LIMITS = "`sacctmgr show assoc user=$USER` and `sacctmgr show qos` show the limits"
_NEVER = f"it can never start as it is: cancel it, and ask for less; {_SEE_LIMITS}"


def explain(job: SlurmJob, facts: SchedulerFacts | None = None) -> Explanation:
    """Why a pending job does not run."""
    read = facts or SchedulerFacts()
    code = reason_code(job.reason)
    if code in _SPECIAL:
        return _SPECIAL[code](job, read)
    if code in _PLAIN:
        return Explanation(*_PLAIN[code])
    if limit := reason_of(code):
        in_force = read.limits and limit_in_force(read.limits, limit, job.account, job.qos, job.user_id)
        return _limit(limit, job, in_force or None)
    if not code:
        return Explanation("other", "SLURM has given no reason yet", "look again in a minute")
    return Explanation("other", f"SLURM's reason is {job.reason}", "`man squeue` explains it, or ask the site")


def _priority(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    ahead = "how many was not read" if read.jobs_ahead is None else f"{read.jobs_ahead} in this partition"
    return Explanation("priority", f"jobs with a higher priority are before it ({ahead}); {_start(job, read)}", WAIT)


def _resources(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    words = f"it is next, and waits until {job.num_nodes} fitting nodes are free ({_node_counts(read)})"
    return Explanation("resources", f"{words}; {_start(job, read)}", f"{WAIT}; fewer nodes or less time start sooner")


def _begin_time(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    if job.restarts == 0:
        return Explanation("time", f"it was asked to start later; {_start(job, read)}", WAIT)
    hold = read.requeue_hold_seconds
    usual = "about 2 minutes, unless the site has set another time" if hold is None else f"{hold:.0f} s here"
    return Explanation("time", f"requeued jobs wait ({usual}) before they start again; {_start(job, read)}", WAIT)


def _dependency(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    return Explanation("dependency", f"it waits for another job: {job.dependency or 'which one was not read'}", WAIT)


def _never(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    words = f"the job that it waits for did not end as asked: {job.dependency or 'which one was not read'}"
    return Explanation("dependency", words, "it will never start: cancel it, and submit again or resume")


def _time_limit(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    limit = duration(read.partition.max_time_seconds) if read.partition else "not read"
    asked = duration(job.time_limit_seconds)
    words = f"it asks for {asked}, and the limit of partition {job.partition} is {limit}"
    return Explanation("time", words, "cancel it, lower resources.walltime to that limit, and submit again")


def _node_limit(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    limit = "not read" if read.partition is None else read.partition.max_nodes or read.partition.num_nodes
    words = f"it asks for {count(job.num_nodes, 'node')}, and the limit of partition {job.partition} is {limit}"
    return Explanation("resources", words, "cancel it, lower resources.max_nodes, and submit again")


def _partition_limits(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    """`PartitionConfig` does not say which limit; the job and the partition do."""
    partition = read.partition
    most = partition.max_time_seconds if partition else None
    if partition and most is not None and (job.time_limit_seconds is None or job.time_limit_seconds > most):
        return _time_limit(job, read)
    if partition and job.num_nodes > (partition.max_nodes or partition.num_nodes):
        return _node_limit(job, read)
    which = "which one was not read" if partition is None else "which one cannot be seen from here"
    words = f"it goes beyond a limit of partition {job.partition} ({which})"
    return Explanation("resources", words, "compare it with `scontrol show partition`, cancel it, and submit again")


def _unavailable(job: SlurmJob, read: SchedulerFacts) -> Explanation:
    named = re.search(r"UnavailableNodes:_?(\S+)", job.reason)
    which = named[1] if named and named[1] != "(null)" else "which ones was not read"
    bad = [f"{node.name}: {node.reason}" for node in read.nodes or () if node.reason][:3]
    words = f"nodes that it needs are down, drained or reserved: {which}" + (f" ({'; '.join(bad)})" if bad else "")
    return Explanation("resources", words, f"{WAIT} when they are back; `sinfo -R` tells why they are away")


_SPECIAL: dict[str, Callable[[SlurmJob, SchedulerFacts], Explanation]] = {
    "priority": _priority,
    "resources": _resources,
    "begintime": _begin_time,
    "dependency": _dependency,
    "dependencyneversatisfied": _never,
    "partitiontimelimit": _time_limit,
    "timelimit": _time_limit,
    "partitionnodelimit": _node_limit,
    "partitionconfig": _partition_limits,
    "reqnodenotavail": _unavailable,
    "nodesrequiredforjobaredown": _unavailable,
    "nodedown": _unavailable,
}

_RELEASE = "`scontrol release JOBID` if it is yours to release"
_HELD_AFTER_FAILURE = "look at the nodes (`sinfo -R`) and the log, then `scontrol release JOBID`, or cancel it"
_PLAIN: dict[str, tuple[str, str, str]] = {
    "jobhelduser": ("held", "its owner holds it", _RELEASE),
    "jobheldadmin": ("held", "an administrator holds it", "ask the site why"),
    "jobholdmaxrequeue": ("held", "it was requeued too often, and SLURM holds it now", _HELD_AFTER_FAILURE),
    "jobrequeuedinheldstate": ("held", "it was requeued, and is held until somebody releases it", _RELEASE),
    "launchfailedrequeuedheld": ("held", "it could not be started on its nodes, and is held now", _HELD_AFTER_FAILURE),
    "prolog": ("other", "the nodes are being prepared", WAIT),
    "joblaunchfailure": ("held", "it could not be started on its nodes", _HELD_AFTER_FAILURE),
    "badconstraints": (
        "resources",
        "no node of this partition has what it asks for",
        "compare it with `sinfo -o '%P %G %c %m %f'`, correct the site profile, and submit again",
    ),
    "partitiondown": ("resources", "the partition is down", "`sinfo -s` shows others; this one comes back by itself"),
    "partitioninactive": ("resources", "the partition takes no jobs now", "`sinfo -s` shows others"),
    "reservation": ("resources", "it waits for its reservation to begin", "`scontrol show reservation` tells when"),
    "reservationdeleted": ("resources", "its reservation is gone", "cancel it, and submit without the reservation"),
    "invalidreservation": ("resources", "its reservation is not valid", "cancel it, and correct the site profile"),
    "licenses": ("resources", "it waits for a license", "`scontrol show lic` shows who has them"),
    "invalidaccount": ("quota", "its account is not valid", "correct `account` in the site profile, and submit again"),
    "invalidqos": ("quota", "its QOS is not valid", "correct `qos` in the site profile, and submit again"),
    "accountnotallowed": ("quota", "its account may not use this partition", "set another account or partition"),
    "qosnotallowed": ("quota", "its QOS may not be used in this partition or account", "set another QOS or partition"),
    "jobarraytasklimit": ("dependency", "as many of the sweep's jobs run as it allows at a time", WAIT),
    "deadline": ("time", "it cannot end before its deadline", "cancel it, and submit again with less time"),
    "cleaning": ("other", "its last start is being cleaned up", WAIT),
    "nodeconfig": ("resources", "its nodes are starting or being changed", WAIT),
    "frontenddown": ("resources", "the cluster's front end is down", "ask the site"),
    "maxmemperlimit": ("resources", "it asks for more memory than allowed", "lower `memory` in the site profile"),
    "burstbufferresources": ("resources", "it waits for burst buffer space", WAIT),
    "burstbufferstagein": ("other", "its files are being staged in", WAIT),
    "maxbytesallocated": ("resources", "it waits for network or storage to be free", WAIT),
    "federationjoblock": ("other", "the federation decides where it runs", WAIT),
    "reservationmaxrequeue": ("held", "it was requeued too often", _HELD_AFTER_FAILURE),
    "systemfailure": ("other", "SLURM itself, the file system or the network failed", "ask the site"),
    "inactivelimit": ("time", "it reached the limit for inactive jobs", "submit again"),
    "raisedsignal": ("other", "it got a signal", "look at its log"),
    "nonzeroexitcode": ("other", "it ended with an error", "look at its log"),
    "outofmemory": ("resources", "it used more memory than it asked for", "raise `memory` in the site profile"),
    "schedulingdisabled": ("other", "the site has stopped scheduling", "wait for the site's announcement"),
    "power": ("resources", "it waits for electric power within the site's limit", WAIT),
}

_RESOURCES = {
    "cpu": "CPUs",
    "node": "nodes",
    "gres": "GPUs",
    "gpu": "GPUs",
    "mem": "memory",
    "jobs": "running jobs",
    "job": "running jobs",
    "submit": "submitted jobs",
    "wall": "time",
    "billing": "billing units",
    "license": "licenses",
    "energy": "energy",
    "bb": "burst buffer",
}


def _limit(reason: Reason, job: SlurmJob, found: Limit | None) -> Explanation:
    """AssocGrpGRES, QOSMaxJobsPerUserLimit and their many relations; `found` is what was read of the limit itself."""
    owner = found.owner if found else ("your account" if reason.whose == "assoc" else "the QOS")
    what = next((words for name, words in _RESOURCES.items() if name in reason.what), "resources")
    if "min" in reason.what[1:] and reason.kind == "grp":
        words = f"the budget of {owner} ({what} times minutes) is used up"
        return Explanation("quota", words + (f": {found.used} of {found.most}" if found else ""), _SEE_LIMITS)
    if reason.kind == "min":
        return Explanation("quota", f"{owner} asks for more {what} in a job than this one uses", _SEE_LIMITS)
    if reason.per in ("job", "node") or what == "time":
        words = f"it asks for more {what} than {owner} allows to one job"
        return Explanation("quota", words + (f" ({_number(found.most, what)})" if found else ""), _NEVER)
    asked = job.resources.get(reason.resource, 0.0)
    if found and asked > float(found.most):
        words = f"it asks for {asked:g} {what}, and {owner} allows {found.most} at a time"
        return Explanation("quota", words, _NEVER)
    who = {"user": "of you", "": "of all users together" if reason.kind == "grp" else "of you"}
    words = f"{owner} limits the {what} {who.get(reason.per, 'of your account')}"
    return Explanation("quota", words + _figures(found, what), f"{WAIT}; {_SEE_LIMITS}")


def _figures(found: Limit | None, what: str) -> str:
    if found is None or not found.used:
        return ", and they are in use"
    return f" to {_number(found.most, what)}, and {_number(found.used, what)} are in use"


def _number(text: str, what: str) -> str:
    """SLURM's number with a unit where it has one."""
    if what == "time" and text.replace(".", "").isdigit():
        return duration(float(text) * 60)
    return f"{text} MB" if what == "memory" else text


def _start(job: SlurmJob, read: SchedulerFacts) -> str:
    """When SLURM expects it to start."""
    if job.started is None:
        return "SLURM has no start time yet"
    if read.now is None:
        return "its expected start was not compared with the clock"
    return f"expected to start in {duration(max(0.0, job.started - read.now))}"


def _node_counts(read: SchedulerFacts) -> str:
    if read.nodes is None:
        return "node states: not read"
    counts = Counter(node.states[0] if len(node.states) == 1 else "+".join(node.states) for node in read.nodes)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())
