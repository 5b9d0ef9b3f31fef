"""A profile drafted from what a site says about itself, with a comment wherever a person has to decide."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.facts import Node, Partition
from launcher.doctor.accounting import walltime_limit
from launcher.doctor.site import Site, is_preemptable, preempts_by_qos, sends_user_signal, usual_preempt_mode
from rundir.quantities import walltime


def drafted(site: Site, partition_name: str | None = None) -> str:
    """The YAML text of a profile for one of the site's partitions."""
    partition = _chosen(site, partition_name)
    return "\n".join(_lines(site, partition)) + "\n"


def _chosen(site: Site, name: str | None) -> Partition:
    """The named one; else, among those with GPUs, the default or the first."""
    named = [one for one in site.partitions if one.name == name]
    with_gpus = [one for one in site.partitions if any(node.gpus for node in site.nodes_of(one))]
    ordered = sorted(with_gpus or site.partitions, key=lambda one: not one.is_default)
    return (named or ordered)[0]


def _lines(site: Site, partition: Partition) -> Iterator[str]:
    nodes = site.nodes_of(partition)
    cluster = site.config.get("ClusterName", "this cluster")
    yield f"# Drafted from {cluster}'s own answers. Check it with: tuneyard doctor --profile FILE"
    yield "backend: slurm"
    yield f"description: {_quoted(f'partition {partition.name} of {cluster}')}"
    yield ""
    others = ", ".join(one.name for one in site.partitions if one.name != partition.name)
    yield f"partition: {_quoted(partition.name)}" + (f"   # others: {others}" if others else "")
    yield from _account(site, partition)
    yield from _hardware(nodes)
    yield ""
    yield "setup: {}   # {venv: FOLDER}, {conda: NAME} or {container: {kind: apptainer, image: FILE}}"
    yield "# modules: [cuda]   # module avail"
    yield "# nccl: {SOCKET_IFNAME: ib0}   # ip -br link, on a compute node"
    yield "# run_root: /shared/me/runs   # storage that all nodes share"
    yield ""
    yield from _time_and_preemption(site, partition)


def _account(site: Site, partition: Partition) -> Iterator[str]:
    names = site.accounts.names(partition.name) if site.accounts else []
    if "associations" not in site.enforced:
        yield "# account: my-project   # this site does not ask for one"
    elif site.accounts is None or not names:
        yield "account: my-project   # sacctmgr show assoc user=$USER format=account,partition,qos"
    else:
        default = site.accounts.default_account
        chosen = default if default in names else names[0]
        others = ", ".join(name for name in names if name != chosen)
        yield f"account: {_quoted(chosen)}" + (f"   # yours, too: {others}" if others else "")
        association = site.accounts.association(chosen, partition.name)
        yield f"# qos: normal   # yours in {chosen}: {', '.join(association.qos) if association else ''}"


def _hardware(nodes: list[Node]) -> Iterator[str]:
    kinds = sorted({kind for node in nodes for kind in node.gpus if kind})
    gpus = max((sum(node.gpus.values()) for node in nodes), default=0)
    if not gpus:
        yield "gpu_request: none   # the partition's nodes have no GPU"
    else:
        yield f"gpus_per_node: {gpus}"
        if kinds:
            types = ", ".join(f"{_quoted(kind)}: {_quoted(kind)}" for kind in kinds)
            yield f"gpu_types: {{{types}}}   # our name: the site's"
        yield f"cpus_per_gpu: {max(1, min((node.cpus for node in nodes if node.gpus), default=1) // gpus)}"
    memory = min((node.memory_mb for node in nodes), default=0)
    yield f'memory: "0"   # all of a node; the smallest has {memory} MB'
    yield "exclusive: true   # whole nodes"
    if features := sorted({feature for node in nodes for feature in node.features}):
        yield f"# constraint: {features[0]}   # of: {', '.join(features)}"


def _time_and_preemption(site: Site, partition: Partition) -> Iterator[str]:
    most, whose = walltime_limit(Profile(name=""), partition, site.accounts)
    if most is None:
        yield "max_walltime: 2d   # the partition has no limit; shorter jobs start sooner"
    else:
        yield f"max_walltime: {walltime(most)}   # the limit of {whose}"
    preempted = is_preemptable(partition, site)
    cancels = preempted and "CANCEL" in usual_preempt_mode(partition, site)
    why = "   # preempted jobs are cancelled here" if cancels else ""
    yield f"requeue: {'false' if cancels else 'true'}{why}"
    signal = "USR1" if sends_user_signal(site) else "TERM"
    if preempted and preempts_by_qos(site):
        yield from _preemption_by_qos(site, signal)
    elif preempted:
        yield f"preemption: {{grace_seconds: {partition.grace_seconds:.0f}, signal: {signal}}}"


def _preemption_by_qos(site: Site, signal: str) -> Iterator[str]:
    """Which QOS is chosen is not known, so those that give way stand there to be taken."""
    if site.accounts is None:
        yield "# preemption: {grace_seconds: 60}   # sacctmgr show qos format=name,gracetime"
        return
    for qos in site.accounts.qos:
        if site.accounts.gives_way(qos):
            requeue = {"CANCEL": "; then requeue: false", "REQUEUE": "; then requeue: true"}.get(qos.preempt_mode, "")
            preemption = f"{{grace_seconds: {qos.grace_seconds:.0f}, signal: {signal}}}"
            yield f"# preemption: {preemption}   # with qos: {qos.name}{requeue}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
