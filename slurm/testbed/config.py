"""What the testbed's SLURM is told. Timers are short where that changes only the waiting, not what happens."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

CONTROLLER = "ctl"
_LOWEST_PORT, _HIGHEST_PORT = 20000, 31000  # below the range that the kernel gives to others


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a testbed."""

    nodes: int = 4
    gpus_per_node: int = 8
    grace_seconds: int = 20
    requeue_hold_seconds: int = 8
    accounting: bool = False

    @property
    def node_names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]


NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none\nPreemptType=preempt/partition_prio\n"


def slurm_conf(directory: Path, settings: Settings, ports: list[int], accounting: str = NO_ACCOUNTING) -> str:
    """The controller's and the nodes' slurm.conf. `ports` holds one for the controller and one for each node."""
    nodes = "\n".join(
        f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=32 Boards=1 SocketsPerBoard=2 CoresPerSocket=16 "
        f"ThreadsPerCore=1 RealMemory=64000 Gres=gpu:h100:{settings.gpus_per_node} Feature=hopper,ib"
        for name, port in zip(settings.node_names, ports[1:], strict=True)
    )
    return f"""\
ClusterName=testbed
SlurmctldHost={CONTROLLER}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# cred_expire is also what a requeued job waits before it starts again; 120 s where it is not set.
AuthInfo=socket={directory}/{CONTROLLER}/munge.socket,cred_expire={settings.requeue_hold_seconds}
CryptoType=crypto/munge
StateSaveLocation={directory}/{CONTROLLER}/state
SlurmctldPidFile={directory}/{CONTROLLER}/slurmctld.pid
SlurmctldLogFile={directory}/{CONTROLLER}/slurmctld.log
SlurmdSpoolDir={directory}/%n/spool
SlurmdPidFile={directory}/%n/slurmd.pid
SlurmdLogFile={directory}/%n/slurmd.log
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=1000
ReturnToService=1
JobRequeue=1
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_min_age_reserve=0,sched_interval=2,batch_sched_delay=0
KillWait=10
SlurmdTimeout=8
MessageTimeout=5
MinJobAge=600
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/{CONTROLLER}/jobs.txt
{accounting}JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=DEFAULT Nodes=ALL State=UP OverSubscribe=NO MaxTime=7-00:00:00 DefaultTime=10
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={settings.grace_seconds}
PartitionName=high PriorityTier=10 PreemptMode=OFF
# Two minutes: for runs that are longer than the queue allows.
PartitionName=short PriorityTier=1 PreemptMode=REQUEUE GraceTime={settings.grace_seconds} MaxTime=2 DefaultTime=1
# Preempted jobs are cancelled here: a site that does not requeue.
PartitionName=norequeue PriorityTier=1 PreemptMode=CANCEL GraceTime={settings.grace_seconds}
"""


def gres_conf(directory: Path, settings: Settings) -> str:
    """Pretended GPUs. Without device files SLURM calls the nodes invalid."""
    return f"Name=gpu Type=h100 File={directory}/gpu[0-{settings.gpus_per_node - 1}]\n"


CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on now."""
    starts = list(range(_LOWEST_PORT, _HIGHEST_PORT, count))
    own = os.getpid() % len(starts)  # so that two testbeds that boot at the same time look at different ones
    for first in (*starts[own:], *starts[:own]):
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise OSError(f"no {count} free ports between {_LOWEST_PORT} and {_HIGHEST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
