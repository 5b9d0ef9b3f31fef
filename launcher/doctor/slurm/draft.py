"""A profile drafted from what a site says about itself, with a comment wherever a person has to decide."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.facts import Node, Partition
from launcher.doctor.slurm.accounting import walltime_limit
from launcher.doctor.slurm.cluster_facts import ClusterFacts
from rundir.quantities import walltime


def drafted(facts: ClusterFacts, partition_name: str | None = None) -> str:
    """The YAML text of a profile for one of the site's partitions."""
    named = [one for one in facts.partitions if one.name == partition_name]
    # else, among those with GPUs, the default or the first
    with_gpus = [one for one in facts.partitions if any(node.gpus for node in facts.nodes_of(one))]
    ordered = sorted(with_gpus or facts.partitions, key=lambda one: not one.is_default)
    return "\n".join(_lines(facts, (named or ordered)[0])) + "\n"


def _lines(facts: ClusterFacts, partition: Partition) -> Iterator[str]:
    nodes = facts.nodes_of(partition)
    cluster = facts.config.get("ClusterName", "this cluster")
    yield f"# Drafted from {cluster}'s own answers. Check it with: tuneyard doctor --profile FILE"
    yield "backend: slurm"
    yield f"description: {_quoted(f'partition {partition.name} of {cluster}')}"
    yield ""
    others = ", ".join(one.name for one in facts.partitions if one.name != partition.name)
    yield f"partition: {_quoted(partition.name)}" + (f"   # others: {others}" if others else "")
    yield from _account(facts, partition)
    yield from _hardware(nodes)
    yield ""
    yield "setup: {}   # {venv: FOLDER}, {conda: NAME} or {container: {kind: apptainer, image: FILE}}"
    yield "# modules: [cuda]   # module avail"
    yield "# nccl: {SOCKET_IFNAME: ib0}   # ip -br link, on a compute node"
    yield "# run_root: /shared/me/runs   # storage that all nodes share"
    yield ""
    yield from _time_and_preemption(facts, partition)


def _account(facts: ClusterFacts, partition: Partition) -> Iterator[str]:
    names = facts.accounts.names(partition.name) if facts.accounts else []
    if "associations" not in facts.enforced:
        yield "# account: my-project   # this site does not ask for one"
    elif facts.accounts is None or not names:
        yield "account: my-project   # sacctmgr show assoc user=$USER format=account,partition,qos"
    else:
        default = facts.accounts.default_account
        chosen = default if default in names else names[0]
        others = ", ".join(name for name in names if name != chosen)
        yield f"account: {_quoted(chosen)}" + (f"   # yours, too: {others}" if others else "")
        association = facts.accounts.association(chosen, partition.name)
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


def _time_and_preemption(facts: ClusterFacts, partition: Partition) -> Iterator[str]:
    most, whose = walltime_limit(Profile(name=""), partition, facts.accounts)
    if most is None:
        yield "max_walltime: 2d   # the partition has no limit; shorter jobs start sooner"
    else:
        yield f"max_walltime: {walltime(most)}   # the limit of {whose}"
    preempted = facts.is_preemptable(partition)
    cancels = preempted and "CANCEL" in facts.usual_preempt_mode(partition)
    why = "   # preempted jobs are cancelled here" if cancels else ""
    yield f"requeue: {'false' if cancels else 'true'}{why}"
    signal = "USR1" if facts.sends_user_signal else "TERM"
    if preempted and facts.preempts_by_qos:
        yield from _preemption_by_qos(facts, signal)
    elif preempted:
        yield f"preemption: {{grace_seconds: {partition.grace_seconds:.0f}, signal: {signal}}}"


def _preemption_by_qos(facts: ClusterFacts, signal: str) -> Iterator[str]:
    """Which QOS is chosen is not known, so those that give way stand there to be taken."""
    if facts.accounts is None:
        yield "# preemption: {grace_seconds: 60}   # sacctmgr show qos format=name,gracetime"
        return
    for qos in facts.accounts.qos:
        if facts.accounts.gives_way(qos):
            requeue = {"CANCEL": "; then requeue: false", "REQUEUE": "; then requeue: true"}.get(qos.preempt_mode, "")
            preemption = f"{{grace_seconds: {qos.grace_seconds:.0f}, signal: {signal}}}"
            yield f"# preemption: {preemption}   # with qos: {qos.name}{requeue}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
