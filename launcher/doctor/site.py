"""A profile against its site: what SLURM says about itself, compared with what the profile promises. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from cluster.slurm.profile import JOB, PREPARE_CPUS, Profile
from cluster.slurm.scheduler.accounting import Accounts
from cluster.slurm.scheduler.facts import Node, Partition, parse_version, requeue_hold_seconds
from launcher.doctor import Check, fail, not_read, ok, warn
from launcher.doctor.accounting import account_checks, grace_check, preemption_check, qos_of, walltime_limit
from rundir.quantities import count, duration, walltime_seconds

WARNING_SLOP_SECONDS = 60
"""SLURM sends its warning up to so much early (measured)."""
LEAD_SECONDS = 75
"""A job's default grace of 60 s, and the agent's own 15 s."""
OLDEST_TESTED = (20, 11)
_AWAY = {"down", "drain", "drained", "draining", "fail", "failing", "maint", "unknown", "invalid", "future"}


@dataclass(frozen=True)
class Site:
    """What was read from the scheduler."""

    config: dict[str, str]
    partitions: list[Partition]
    nodes: list[Node]
    version: tuple[int, ...]
    accounts: Accounts | None = None
    """What the user may use; None where there is no accounting, or it was not read."""

    @property
    def enforced(self) -> str:
        """Which limits of accounting hold here, in small letters: `associations,limits,qos`."""
        return self.config.get("AccountingStorageEnforce", "").lower()

    def partition_of(self, profile: Profile) -> Partition | None:
        """The profile's partition, or the site's default one."""
        wanted = profile.partition
        return next((one for one in self.partitions if one.name == wanted or (not wanted and one.is_default)), None)

    def nodes_of(self, partition: Partition) -> list[Node]:
        """The partition's nodes."""
        return [node for node in self.nodes if partition.name in node.partitions]


def site_checks(profile: Profile, site: Site) -> Iterator[Check]:
    """Everything that can be compared without submitting."""
    yield _version(site)
    partition = site.partition_of(profile)
    if partition is None:
        yield _no_partition(profile, site)
    else:
        yield _partition(partition)
        yield _nodes(site.nodes_of(partition))
        yield from account_checks(profile, partition, site.accounts, site.enforced)
        yield _walltime(profile, partition, site)
        yield _gpus(profile, site.nodes_of(partition))
        yield from _size(profile, site.nodes_of(partition))
        yield from _constraint(profile, site.nodes_of(partition))
        yield _requeue(profile, partition, site)
        yield from _preemption(profile, partition, site)
    yield from _prepare(profile, site)
    yield _hold(site)
    yield _kill_wait(profile, site)
    yield _sweeps(site)


def is_preemptable(partition: Partition, site: Site) -> bool:
    """Whether jobs of this partition give way to others."""
    if preempts_by_qos(site):
        return True
    higher = any(other.priority_tier > partition.priority_tier for other in site.partitions)
    return "partition_prio" in site.config.get("PreemptType", "") and partition.preempt_mode != "OFF" and higher


def preempts_by_qos(site: Site) -> bool:
    """Whether it is QOS, and not partitions, that say which jobs give way."""
    return "qos" in site.config.get("PreemptType", "")


def usual_preempt_mode(partition: Partition, site: Site) -> str:
    """What becomes of preempted jobs where no QOS has a word of its own, upper case: CANCEL, REQUEUE, SUSPEND, ..."""
    return site.config.get("PreemptMode", "").upper() if preempts_by_qos(site) else partition.preempt_mode


def sends_user_signal(site: Site) -> bool:
    """Whether preempted jobs get their own warning signal."""
    return "preempt_send_user_signal" in site.config.get("SlurmctldParameters", "").split(",")


def _version(site: Site) -> Check:
    shown = site.config.get("SLURM_VERSION", "")
    theirs = parse_version(shown)
    if not theirs:
        return not_read("slurm version", "SLURM_VERSION")
    if theirs[:2] < OLDEST_TESTED:
        return warn("slurm version", shown, "older than what Tuneyard is tested with; rehearse with `tuneyard drill`")
    if site.version and theirs[:2] != site.version[:2]:
        ours = ".".join(map(str, site.version))
        return warn("slurm version", f"controller {shown}, commands here {ours}", "use the commands of the cluster")
    return ok("slurm version", shown)


def _no_partition(profile: Profile, site: Site) -> Check:
    names = [one.name for one in site.partitions]
    if not profile.partition:
        return fail("partition", "the site has no default partition", f"set `partition` to one of: {', '.join(names)}")
    near = get_close_matches(profile.partition, names, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"there is: {', '.join(names)}"
    return fail("partition", f"no partition is called {profile.partition}, or you may not see it", remedy)


def _partition(partition: Partition) -> Check:
    words = f"{partition.name}, {count(partition.num_nodes, 'node')}, {partition.state}"
    if partition.state == "UP":
        return ok("partition", words)
    return warn("partition", words, "jobs wait until the site opens it again")


def _nodes(nodes: list[Node]) -> Check:
    away = [node for node in nodes if _AWAY & set(node.states)]
    idle = sum(node.states == ("idle",) for node in nodes)
    words = f"{idle} idle, {len(away)} away, {len(nodes)} in all"
    if len(away) == len(nodes):
        return fail("nodes", words, "`sinfo -R` tells why they are away; ask the site")
    return ok("nodes", words)


def _walltime(profile: Profile, partition: Partition, site: Site) -> Check:
    most, whose = walltime_limit(profile, partition, site.accounts)
    site_says = duration(most)
    if not profile.max_walltime:
        return warn("walltime", f"the limit of {whose} is {site_says}", "set `max_walltime`, so that plans know it")
    ours = walltime_seconds(profile.max_walltime)
    words = f"{profile.max_walltime} of {site_says}" + ("" if whose.startswith("partition") else f" ({whose})")
    if most is not None and ours > most:
        return fail("walltime", words, f"set `max_walltime` to at most {site_says}")
    if ours <= LEAD_SECONDS + WARNING_SLOP_SECONDS:
        return fail("walltime", f"{words}: the warning {LEAD_SECONDS} s before its end may come at once", "raise it")
    return ok("walltime", words)


def _prepare(profile: Profile, site: Site) -> Iterator[Check]:
    """The job that tokenises: its partition, and whether that has the time and the cores."""
    asked = profile.prepare
    if asked.place != JOB:
        return
    partition = site.partition_of(replace(profile, partition=asked.partition))
    if partition is None:
        yield replace(_no_partition(replace(profile, partition=asked.partition), site), name="prepare")
        return
    most, cores = partition.max_time_seconds, max((node.cpus for node in site.nodes_of(partition)), default=0)
    time = asked.walltime or "its usual time"
    words = f"{partition.name}: {asked.cpus or PREPARE_CPUS} of {count(cores, 'core')}, {time}"
    if asked.walltime and most is not None and walltime_seconds(asked.walltime) > most:
        yield fail("prepare", words, f"set `prepare.walltime` to at most {duration(most)}")
    elif cores and (asked.cpus or PREPARE_CPUS) > cores:
        yield fail("prepare", words, f"set `prepare.cpus` to at most {cores}")
    else:
        yield ok("prepare", words)


def _gpus(profile: Profile, nodes: list[Node]) -> Check:
    found: dict[str, int] = {}
    for node in nodes:
        for kind, number in node.gpus.items():
            found[kind] = max(found.get(kind, 0), number)
    shown = ", ".join(f"{number} x {kind or 'GPU'}" for kind, number in found.items()) or "none"
    if profile.gpu_request == "none":
        return warn("gpus", f"none are asked for; a node has {shown}", "runs train on the CPU")
    if not found:
        return fail("gpus", "the partition's nodes have none", "choose another partition (`sinfo -o '%P %G'`)")
    if unknown := sorted(set(profile.gpu_types.values()) - found.keys()):
        return fail("gpus", f"no node has {', '.join(unknown)}; a node has {shown}", "correct `gpu_types`")
    if profile.gpus_per_node and profile.gpus_per_node > max(found.values()):
        return fail("gpus", f"gpus_per_node is {profile.gpus_per_node}; a node has {shown}", "lower it")
    return ok("gpus", f"a node has {shown}")


def _size(profile: Profile, nodes: list[Node]) -> Iterator[Check]:
    gpus = profile.gpus_per_node or max((sum(node.gpus.values()) for node in nodes), default=0)
    cores = (profile.cpus_per_gpu or 0) * gpus
    most = max((node.cpus for node in nodes), default=0)
    if cores > most:
        yield fail(
            "cpus",
            f"{cores} for {count(gpus, 'GPU')}; a node has {most}",
            f"set cpus_per_gpu to {most // max(gpus, 1)}",
        )
    elif profile.cpus_per_gpu is None and profile.gpu_request != "none":
        yield warn("cpus", "cpus_per_gpu is not set: many sites then give one core to a node", "set `cpus_per_gpu`")
    else:
        yield ok("cpus", f"{cores or 'the default number'} of {most}")
    asked, has = megabytes(profile.memory), max((node.memory_mb for node in nodes), default=0)
    if asked > has:
        yield fail("memory", f"{profile.memory} of {has} MB", f"set `memory` to at most {has}M, or 0 for all of a node")
    elif not profile.memory:
        yield warn("memory", "not set: the site's default may be small", "set `memory`, or 0 for all of a node")
    else:
        yield ok("memory", "all of a node" if asked == 0 else f"{profile.memory} of {has} MB")


def megabytes(text: str) -> float:
    """SLURM's sizes: megabytes without a unit."""
    if not text:
        return 0.0
    units = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    return float(text.rstrip("KMGT")) * units.get(text[-1], 1)


def _constraint(profile: Profile, nodes: list[Node]) -> Iterator[Check]:
    if not profile.constraint:
        return
    known = {feature for node in nodes for feature in node.features}
    wanted = re.findall(r"[\w.+-]+", re.sub(r"\*\d+", "", profile.constraint))
    if unknown := sorted(set(wanted) - known):
        there = ", ".join(sorted(known)) or "none"
        yield fail("constraint", f"no node here has {', '.join(unknown)}", f"features of this partition: {there}")
    else:
        yield ok("constraint", profile.constraint)


def _requeue(profile: Profile, partition: Partition, site: Site) -> Check:
    if not profile.requeue:
        return ok("requeue", "off: each job submits its follower")
    mode, whose = _preempt_mode(profile, partition, site)
    if "CANCEL" in mode:
        words = f"{whose} cancels preempted jobs (PreemptMode=CANCEL)"
        return fail("requeue", words, "set `requeue: false`: then the follower waits in the queue already")
    if "SUSPEND" in mode:
        words = "preempted jobs are suspended, with their GPU memory"
        return warn("requeue", words, "expect hangs to be reported; choose a partition that requeues")
    if site.config.get("JobRequeue") == "0":
        return warn("requeue", "not the site's default (JobRequeue=0); jobs ask for it", "if refused: `requeue: false`")
    return ok("requeue", "allowed")


def _preempt_mode(profile: Profile, partition: Partition, site: Site) -> tuple[str, str]:
    """What becomes of a job of this profile when others want its nodes ("" without others), and who says so."""
    usual = usual_preempt_mode(partition, site)
    if not preempts_by_qos(site):
        return (usual if is_preemptable(partition, site) else ""), partition.name
    qos = qos_of(profile, partition, site.accounts)
    if qos is None or site.accounts is None:
        return usual, "the site"
    if not site.accounts.gives_way(qos):
        return "", qos.name
    return (qos.preempt_mode, f"QOS {qos.name}") if qos.preempt_mode else (usual, "the site")


def _preemption(profile: Profile, partition: Partition, site: Site) -> Iterator[Check]:
    if not is_preemptable(partition, site):
        yield ok("preemption", f"jobs in {partition.name} are not preempted")
        return
    if preempts_by_qos(site):
        yield preemption_check(profile, qos_of(profile, partition, site.accounts), site.accounts)
    else:
        yield grace_check(f"GraceTime is {partition.grace_seconds:g} s", partition.grace_seconds, profile)
    yield _signal(profile, site)


def _signal(profile: Profile, site: Site) -> Check:
    sent, wanted = sends_user_signal(site), profile.preemption.signal
    if wanted == "USR1" and not sent:
        words = "the site does not send the job's own signal (no preempt_send_user_signal)"
        return fail("preemption signal", words, "set `preemption.signal: TERM`, or ask the site to set it")
    if not sent:
        return warn("preemption signal", "SIGTERM only", "batch scripts may hear of a preemption late")
    return ok("preemption signal", "USR1 at the begin of the grace period")


def _hold(site: Site) -> Check:
    hold = requeue_hold_seconds(site.config)
    return ok("requeue hold", f"a requeued job waits {hold:g} s before it may start again")


def _kill_wait(profile: Profile, site: Site) -> Check:
    found = re.match(r"\d+", site.config.get("KillWait", ""))
    if not found:
        return not_read("kill wait", "KillWait")
    seconds = int(found[0])
    words = f"SIGKILL follows SIGTERM after {seconds} s"
    if seconds < LEAD_SECONDS and profile.preemption.signal == "TERM" and not profile.preemption.grace_seconds:
        return warn("kill wait", words, "no longer than that to save: keep resources.grace_seconds below it")
    return ok("kill wait", words)


def _sweeps(site: Site) -> Check:
    size = site.config.get("MaxArraySize", "")
    if size in ("0", "1"):
        return warn("job arrays", "not allowed here", "sweeps are submitted one by one")
    return ok("job arrays", f"up to {size or 'an unknown number of'} tasks")
