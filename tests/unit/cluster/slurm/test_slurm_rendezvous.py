"""From SLURM's variables to the agents' own."""

import socket
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.agent.process.node import Node, free_port, this_node
from cluster.errors import ClusterError
from cluster.slurm.job.rendezvous import agent_environment, expand_node_list, first_port, head_address


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n1,n7", "n1 n7"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[08-10,12]", "n08 n09 n10 n12"),
        ("rack[1-2]n[3,5]", "rack1n3 rack1n5 rack2n3 rack2n5"),
        ("gpu[1-2]-ib,login-3,n[5]", "gpu1-ib gpu2-ib login-3 n5"),
    ],
)
def test_node_lists(text: str, names: str) -> None:
    assert expand_node_list(text) == names.split()


@pytest.mark.parametrize("text", ["", "n[1-", "n[1-x]", "n]1[", "n[1],,n2"])
def test_what_is_no_node_list_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="cannot be understood"):
        expand_node_list(text)


def test_an_agent_is_told_its_place() -> None:
    task = {
        "SLURM_JOB_ID": "4711",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "n[1-4]",
        "SLURM_STEP_NODELIST": "n[2-3]",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.2",
    }
    node = this_node(agent_environment(task))
    assert (node.names, node.rank, node.name, node.generation) == (("n2", "n3"), 1, "n3", "4711.2")
    assert node.head == "10.0.0.2", "n2 does not resolve here"
    assert node.ranks(8) == range(8, 16)
    with pytest.raises(ClusterError, match="SLURM_NODEID not set: this is no SLURM task"):
        agent_environment({"SLURM_JOB_ID": "1"})


def test_the_head_is_named_where_its_name_resolves() -> None:
    assert head_address("localhost", {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.2"}) == "localhost"


def test_ports_lie_below_the_ephemeral_ones_and_neighbours_apart() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [first_port(job) for job in range(5000)]
    assert all(20000 <= port < lowest for port in ports)
    assert all(abs(one - other) >= 7 for one, other in pairwise(ports))
    assert len(set(ports[:1000])) == 1000


def test_a_port_in_use_is_passed_over() -> None:
    first = first_port(12345)
    with socket.create_server(("", free_port(first))) as taken:
        assert free_port(first) > taken.getsockname()[1] - 1
        assert free_port(first) != taken.getsockname()[1]


def test_without_a_word_there_is_one_node_and_nonsense_is_refused() -> None:
    assert this_node({}) == Node((socket.gethostname(),), head=socket.gethostname())
    assert this_node({}).alone
    with pytest.raises(ClusterError, match="TUNEYARD_NODE_RANK is 2, and TUNEYARD_NODES names 2"):
        this_node({"TUNEYARD_NODES": "a,b", "TUNEYARD_NODE_RANK": "2"})
    with pytest.raises(ClusterError, match="not a number"):
        this_node({"TUNEYARD_NODE_RANK": "-1"})
