"""What explains why a job waits, read from the scheduler as far as it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.slurm.scheduler.commands import Scheduler, readable
from cluster.slurm.scheduler.facts import Node, Partition, SlurmJob, requeue_hold_seconds
from cluster.slurm.status.limits import reason_code, reason_of


@dataclass(frozen=True)
class SchedulerFacts:
    """What was read beside the job itself. None: not read."""

    partition: Partition | None = None
    nodes: Sequence[Node] | None = None
    """The nodes of the job's partition."""
    jobs_ahead: int | None = None
    """Pending jobs of the same partition with a higher priority."""
    requeue_hold_seconds: float | None = None
    limits: str | None = None
    """What the controller knows of the limits on the job's account and QOS, in its own words."""
    now: float | None = None


def read_scheduler_facts(scheduler: Scheduler, job: SlurmJob) -> SchedulerFacts:
    """The partition, nodes, limits and queue of a pending job; what cannot be read now is None."""
    partitions = readable(scheduler.partitions) or []
    nodes, config = readable(scheduler.node_facts), readable(scheduler.config)
    return SchedulerFacts(
        partition=next((one for one in partitions if one.name == job.partition), None),
        nodes=None if nodes is None else [node for node in nodes if job.partition in node.partitions],
        jobs_ahead=readable(lambda: scheduler.jobs_ahead(job)),
        requeue_hold_seconds=None if config is None else requeue_hold_seconds(config),
        limits=readable(lambda: scheduler.limits(job)) if reason_of(reason_code(job.reason)) else None,
        now=time.time(),
    )
