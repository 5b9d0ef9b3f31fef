"""A private, real SLURM on one machine: one controller, several node daemons with pretended GPUs.

`python -m slurm.testbed up` boots it in seconds, without systemd and without touching the machine's own SLURM.
Each node has a mount and a UTS namespace of its own: its own host name, `/etc/hosts` and `/etc/slurm`. By that
every process of a node is known, so a node can be "switched off" as a whole, and nothing is left behind.
"""

from slurm.testbed.bed import Testbed
from slurm.testbed.config import Settings
from slurm.testbed.host import TestbedError

__all__ = ["Settings", "Testbed", "TestbedError"]
