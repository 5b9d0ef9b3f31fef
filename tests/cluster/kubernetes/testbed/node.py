"""A node: a machine with a container runtime, a kubelet and the rules for Services."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path

from tests.cluster.kubernetes.testbed.config import CONTROL, Users
from tests.cluster.kubernetes.testbed.host import CNI, PATH, TestbedError, wait_until
from tests.cluster.kubernetes.testbed.images import PAUSE_IMAGE
from tests.cluster.kubernetes.testbed.machine import Machine
from tests.cluster.kubernetes.testbed.network import connect_node, disconnect_node, start_proxy
from tests.cluster.kubernetes.testbed.places import Place
from tests.cluster.kubernetes.tools import build

_READY_SECONDS = 30.0
_CGROUPS = Path("/sys/fs/cgroup")
_SOCKET = "/run/containerd/containerd.sock"  # /run is the node's own
# Where the capability to lower a process's own is missing, runc cannot set the kubelet's wish for a container.
_CONTAINERD = """\
version = 2
root = "{directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni}"
  conf_dir = "{directory}/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{runtime_spec}"
"""


class Node:
    """One node; its folder keeps what a real node has on its disk."""

    def __init__(self, machine: Machine, users: Users, runtime_spec: Path) -> None:
        self.machine, self.users, self.runtime_spec = machine, users, runtime_spec
        self.name, self.directory = machine.name, machine.directory

    @property
    def cgroup(self) -> str:
        """The control group of the node's pods."""
        return f"/{self.machine.place.cgroup}/{self.name}"

    @property
    def _dns(self) -> str:
        return self.machine.place.address(CONTROL)

    def start(self, control: Machine, images: list[Path]) -> None:
        """Switches it on, connects it and starts its services."""
        self.machine.power_on()
        connect_node(self.machine, control)
        self._write()
        make_cgroups(self.cgroup)
        self._start_runtime()
        for image in images:
            self.import_image(image)
        kubelet = build.folder() / "bin" / "kubelet"
        self.machine.start("kubelet", kubelet, *self._kubelet_options())
        start_proxy(self.machine, self.users)

    def stop(self, control: Machine) -> None:
        """Ends everything on it at once, and its network, as a power cut would."""
        self.machine.power_off()
        disconnect_node(self.machine, control)

    def import_image(self, archive: Path) -> None:
        """Makes an image known on this node."""
        self._ctr("images", "import", archive)

    def _write(self) -> None:
        values = {"directory": self.directory, "socket": _SOCKET, "pause": PAUSE_IMAGE, "cni": CNI}
        text = _CONTAINERD.format(**values, runtime_spec=self.runtime_spec)
        (self.directory / "containerd.toml").write_text(text)
        (self.directory / "resolv.conf").write_text(f"nameserver {self._dns}\n")
        (self.directory / "kubelet.json").write_text(json.dumps(self._kubelet_configuration(), indent=1))

    def _start_runtime(self) -> None:
        self.machine.start("containerd", "containerd", f"--config={self.directory / 'containerd.toml'}")

        def answers() -> bool:
            try:
                self._ctr("version")
            except TestbedError:
                return False
            return True

        words = lambda: f"{self.name}: containerd: {self.machine.last_words('containerd')}"  # noqa: E731
        wait_until(answers, _READY_SECONDS, words)

    def _ctr(self, *command: str | Path) -> str:
        return self.machine.enter("ctr", f"--address={_SOCKET}", "--namespace=k8s.io", *command, env={"PATH": PATH})

    def _kubelet_options(self) -> list[str]:
        return [
            f"--config={self.directory / 'kubelet.json'}",
            f"--kubeconfig={self.users.kubeconfig(f'system:node:{self.name}')}",
            f"--cert-dir={self.directory / 'kubelet-pki'}",
            f"--root-dir={self.directory / 'kubelet'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.machine.address}",
        ]

    def _kubelet_configuration(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "cgroupsPerQOS": True,
            "clusterDNS": [self._dns],
            "clusterDomain": "cluster.local.backend",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,  # images come from no registry: one that is removed is gone
            "makeIPTablesUtilChains": False,
            "nodeStatusUpdateFrequency": "2s",
            "podLogsDir": str(self.directory / "pod-logs"),
            "resolvConf": str(self.directory / "resolv.conf"),
            "syncFrequency": "2s",  # webhooks start when their certificates, which are Secrets, reach their pods
            "volumePluginDir": str(self.directory / "volume-plugins"),
        }


def make_cgroups(group: str) -> None:
    """Makes the control group that the kubelet is told to work in, in every hierarchy."""
    tops = [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()] or [_CGROUPS]
    for top in tops:
        (top / group.lstrip("/")).mkdir(parents=True, exist_ok=True)


def remove_cgroups(place: Place) -> None:
    """Removes the control groups of pods that are gone, in every hierarchy."""
    for top in [path / place.cgroup for path in (_CGROUPS, *_CGROUPS.iterdir())]:
        wait_until(partial(_is_removed, top), _READY_SECONDS, f"{top} stays in use")


def _is_removed(top: Path) -> bool:
    folders = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
    with contextlib.suppress(OSError):  # the kernel still counts the last process of one
        for folder in (*folders, *([top] if top.exists() else [])):
            folder.rmdir()
    return not top.exists()
