"""What a cluster's SLURM says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.accounting import Accounts
from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.facts import Node, Partition


@dataclass(frozen=True)
class ClusterFacts:
    """What was read from a cluster's scheduler."""

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

    @property
    def preempts_by_qos(self) -> bool:
        """Whether it is QOS, and not partitions, that say which jobs give way."""
        return "qos" in self.config.get("PreemptType", "")

    @property
    def sends_user_signal(self) -> bool:
        """Whether preempted jobs get their own warning signal."""
        return "preempt_send_user_signal" in self.config.get("SlurmctldParameters", "").split(",")

    def is_preemptable(self, partition: Partition) -> bool:
        """Whether jobs of this partition give way to others."""
        if self.preempts_by_qos:
            return True
        higher = any(other.priority_tier > partition.priority_tier for other in self.partitions)
        return "partition_prio" in self.config.get("PreemptType", "") and partition.preempt_mode != "OFF" and higher

    def usual_preempt_mode(self, partition: Partition) -> str:
        """What becomes of preempted jobs where no QOS says otherwise, upper case: CANCEL, REQUEUE, SUSPEND, ..."""
        return self.config.get("PreemptMode", "").upper() if self.preempts_by_qos else partition.preempt_mode


def read_cluster_facts(scheduler: Scheduler) -> ClusterFacts:
    """What the scheduler says about itself.

    Raises:
        SlurmError: it is not here, or does not answer.
    """
    config = scheduler.config()
    accounting = "slurmdbd" in config.get("AccountingStorageType", "")
    accounts = scheduler.accounts(config.get("ClusterName", "")) if accounting else None
    return ClusterFacts(config, scheduler.partitions(), scheduler.node_facts(), scheduler.version(), accounts)
