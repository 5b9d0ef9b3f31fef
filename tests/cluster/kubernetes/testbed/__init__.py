"""A private, real Kubernetes on one machine: a control plane and several nodes, without a registry.

`python -m tests.cluster.kubernetes.testbed up` boots it in seconds. Control plane and nodes are machines of their own
as far as processes, mounts, host name and network go (Linux namespaces): a node is switched off by ending one process,
and the machine's own services, mounts, firewall rules and sysctls are neither used nor touched.
"""

from tests.cluster.kubernetes.testbed.bed import Testbed
from tests.cluster.kubernetes.testbed.cluster import Cluster
from tests.cluster.kubernetes.testbed.config import Settings
from tests.cluster.kubernetes.testbed.host import TestbedError
from tests.cluster.kubernetes.testbed.namespaces import Namespace

__all__ = ["Cluster", "Namespace", "Settings", "Testbed", "TestbedError"]
