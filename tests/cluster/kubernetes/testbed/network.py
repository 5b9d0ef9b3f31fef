"""One flat network between the machines, their pods and the real machine, which holds no more of it than one cable.

The control plane has the switch. A node's own bridge is plugged into it, so pods of all nodes reach each other.
"""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.kubernetes.testbed.config import SERVICES, Users
from tests.cluster.kubernetes.testbed.host import run
from tests.cluster.kubernetes.testbed.machine import Machine
from tests.cluster.kubernetes.testbed.places import Place
from tests.cluster.kubernetes.tools import build

# It may go by itself at any moment.
_DELETE_LINK = ("sh", "-c", 'ip link delete "$1" 2>/dev/null || ! ip link show "$1" >/dev/null 2>&1', "sh")


def connect_control(control: Machine) -> None:
    """Makes the switch on the control plane, and the cable from the real machine to it."""
    cable = control.place.cable
    pull_cable(control.place)  # a crashed one may have left it
    run("ip", "link", "add", cable, "type", "veth", "peer", "name", "host", "netns", str(control.pid))
    run("ip", "address", "add", f"{control.place.network}.0.1/16", "dev", cable)
    run("ip", "link", "set", cable, "up")
    _make_bridge(control, "lan", "host", control.address)


def connect_node(node: Machine, control: Machine) -> None:
    """Gives the node its bridge, plugged into the switch, and tells its container runtime how pods join it."""
    port = ("netns", str(control.pid))
    run("ip", "link", "add", "eth0", "netns", str(node.pid), "type", "veth", "peer", "name", node.name, *port)
    control.enter("ip", "link", "set", node.name, "master", "lan", "up")
    _make_bridge(node, "cni0", "eth0", node.address)
    path = node.directory / "cni" / "net.d" / "10-testbed.conflist"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_pod_network(node), indent=1))


def pull_cable(place: Place) -> None:
    """Removes the cable. By itself it would go with the last connection of the control plane, some time later."""
    run(*_DELETE_LINK, place.cable)


def disconnect_node(node: Machine, control: Machine) -> None:
    """Pulls the node's plug from the switch."""
    control.enter(*_DELETE_LINK, node.name)


def start_proxy(machine: Machine, users: Users) -> None:
    """Makes Services work on a machine. Its rules are in the machine's own network and go with it."""
    options = [
        f"--kubeconfig={users.kubeconfig('system:kube-proxy')}",
        f"--hostname-override={machine.name}",
        "--proxy-mode=iptables",
        "--masquerade-all",  # in a flat network the answer would else not come back through the rules
        "--conntrack-max-per-core=0",
    ]
    machine.start("kube-proxy", build.folder() / "bin" / "kube-proxy", *options)


def _make_bridge(machine: Machine, bridge: str, port: str, address: str) -> None:
    script = """
    ip link add "$1" type bridge
    ip link set "$1" address "$(cat /sys/class/net/"$1"/address)"  # set by hand it stays, whatever is plugged in
    ip link set "$2" master "$1" up
    ip address add "$3/16" dev "$1"
    ip link set "$1" up
    ip route add "$4" dev "$1"  # a Service's address is replaced on the way out, which needs a way
    """
    machine.enter("sh", "-ec", script, "sh", bridge, port, address, SERVICES)


def _pod_network(node: Machine) -> dict[str, Any]:
    prefix = node.address.removesuffix(".1")
    pods = {
        "subnet": f"{node.place.network}.0.0/16",
        "rangeStart": f"{prefix}.10",
        "rangeEnd": f"{prefix}.250",
        "gateway": node.address,
    }
    addresses = {"type": "host-local", "ranges": [[pods]], "routes": [{"dst": "0.0.0.0/0"}]}
    addresses |= {"dataDir": str(node.directory / "cni" / "addresses")}
    plugin = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "testbed", "plugins": [plugin]}
