"""A profile against its site: what SLURM says about itself, compared with what the profile promises. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches

from cluster.slurm.profile import JOB, PREPARE_CPUS, Profile
from cluster.slurm.scheduler.facts import Node, Partition, parse_version, requeue_hold_seconds
from cluster.slurm.submit.batch_script import AFTER_GRACE_SECONDS, WARNING_SLOP_SECONDS
from launcher.doctor import Check, fail, not_read, ok, warn
from launcher.doctor.slurm.accounting import account_checks, grace_check, preemption_check, qos_of, walltime_limit
from launcher.doctor.slurm.cluster_facts import ClusterFacts
from rundir.quantities import count, duration, walltime_seconds

LEAD_SECONDS = 60 + AFTER_GRACE_SECONDS
"""A job's default grace, and the agent's own time."""
OLDEST_TESTED = (20, 11)
_AWAY = {"down", "drain", "drained", "draining", "fail", "failing", "maint", "unknown", "invalid", "future"}


def cluster_checks(profile: Profile, facts: ClusterFacts) -> Iterator[Check]:
    """Everything that can be compared without submitting."""
    yield _version(facts)
    partition = facts.partition_of(profile)
    if partition is None:
        yield _no_partition(profile, facts)
    else:
        yield _partition(partition)
        yield _nodes(facts.nodes_of(partition))
        yield from account_checks(profile, partition, facts.accounts, facts.enforced)
        yield _walltime(profile, partition, facts)
        yield _gpus(profile, facts.nodes_of(partition))
        yield from _size(profile, facts.nodes_of(partition))
        yield from _constraint(profile, facts.nodes_of(partition))
        yield _requeue(profile, partition, facts)
        yield from _preemption(profile, partition, facts)
    yield from _prepare(profile, facts)
    hold = requeue_hold_seconds(facts.config)
    yield ok("requeue hold", f"a requeued job waits {hold:g} s before it may start again")
    yield _kill_wait(profile, facts)
    yield _sweeps(facts)


def _version(facts: ClusterFacts) -> Check:
    shown = facts.config.get("SLURM_VERSION", "")
    theirs = parse_version(shown)
    if not theirs:
        return not_read("slurm version", "SLURM_VERSION")
    if theirs[:2] < OLDEST_TESTED:
        return warn("slurm version", shown, "older than what Tuneyard is tested with; rehearse with `tuneyard drill`")
    if facts.version and theirs[:2] != facts.version[:2]:
        ours = ".".join(map(str, facts.version))
        return warn("slurm version", f"controller {shown}, commands here {ours}", "use the commands of the cluster")
    return ok("slurm version", shown)


def _no_partition(profile: Profile, facts: ClusterFacts) -> Check:
    names = [one.name for one in facts.partitions]
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


def _walltime(profile: Profile, partition: Partition, facts: ClusterFacts) -> Check:
    most, whose = walltime_limit(profile, partition, facts.accounts)
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


def _prepare(profile: Profile, facts: ClusterFacts) -> Iterator[Check]:
    """The job that tokenises: its partition, and whether that has the time and the cores."""
    asked = profile.prepare
    if asked.place != JOB:
        return
    partition = facts.partition_of(replace(profile, partition=asked.partition))
    if partition is None:
        yield replace(_no_partition(replace(profile, partition=asked.partition), facts), name="prepare")
        return
    most, cores = partition.max_time_seconds, max((node.cpus for node in facts.nodes_of(partition)), default=0)
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


def _requeue(profile: Profile, partition: Partition, facts: ClusterFacts) -> Check:
    if not profile.requeue:
        return ok("requeue", "off: each job submits its follower")
    mode, whose = _preempt_mode(profile, partition, facts)
    if "CANCEL" in mode:
        words = f"{whose} cancels preempted jobs (PreemptMode=CANCEL)"
        return fail("requeue", words, "set `requeue: false`: then the follower waits in the queue already")
    if "SUSPEND" in mode:
        words = "preempted jobs are suspended, with their GPU memory"
        return warn("requeue", words, "expect hangs to be reported; choose a partition that requeues")
    if facts.config.get("JobRequeue") == "0":
        return warn("requeue", "not the site's default (JobRequeue=0); jobs ask for it", "if refused: `requeue: false`")
    return ok("requeue", "allowed")


def _preempt_mode(profile: Profile, partition: Partition, facts: ClusterFacts) -> tuple[str, str]:
    """What becomes of a job of this profile when others want its nodes ("" without others), and who says so."""
    usual = facts.usual_preempt_mode(partition)
    if not facts.preempts_by_qos:
        return (usual if facts.is_preemptable(partition) else ""), partition.name
    qos = qos_of(profile, partition, facts.accounts)
    if qos is None or facts.accounts is None:
        return usual, "the site"
    if not facts.accounts.gives_way(qos):
        return "", qos.name
    return (qos.preempt_mode, f"QOS {qos.name}") if qos.preempt_mode else (usual, "the site")


def _preemption(profile: Profile, partition: Partition, facts: ClusterFacts) -> Iterator[Check]:
    if not facts.is_preemptable(partition):
        yield ok("preemption", f"jobs in {partition.name} are not preempted")
        return
    if facts.preempts_by_qos:
        yield preemption_check(profile, qos_of(profile, partition, facts.accounts), facts.accounts)
    else:
        yield grace_check(f"GraceTime is {partition.grace_seconds:g} s", partition.grace_seconds, profile)
    yield _signal(profile, facts)


def _signal(profile: Profile, facts: ClusterFacts) -> Check:
    sent, wanted = facts.sends_user_signal, profile.preemption.signal
    if wanted == "USR1" and not sent:
        words = "the site does not send the job's own signal (no preempt_send_user_signal)"
        return fail("preemption signal", words, "set `preemption.signal: TERM`, or ask the site to set it")
    if not sent:
        return warn("preemption signal", "SIGTERM only", "batch scripts may hear of a preemption late")
    return ok("preemption signal", "USR1 at the begin of the grace period")


def _kill_wait(profile: Profile, facts: ClusterFacts) -> Check:
    found = re.match(r"\d+", facts.config.get("KillWait", ""))
    if not found:
        return not_read("kill wait", "KillWait")
    seconds = int(found[0])
    words = f"SIGKILL follows SIGTERM after {seconds} s"
    if seconds < LEAD_SECONDS and profile.preemption.signal == "TERM" and not profile.preemption.grace_seconds:
        return warn("kill wait", words, "no longer than that to save: keep resources.grace_seconds below it")
    return ok("kill wait", words)


def _sweeps(facts: ClusterFacts) -> Check:
    size = facts.config.get("MaxArraySize", "")
    if size in ("0", "1"):
        return warn("job arrays", "not allowed here", "sweeps are submitted one by one")
    return ok("job arrays", f"up to {size or 'an unknown number of'} tasks")
