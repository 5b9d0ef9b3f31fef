"""The control plane: etcd, API server, controller manager, scheduler and cluster DNS on one machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.kubernetes.testbed.config import SERVICES, Settings, Users
from tests.cluster.kubernetes.testbed.host import run, wait_until
from tests.cluster.kubernetes.testbed.machine import Machine
from tests.cluster.kubernetes.testbed.network import start_proxy
from tests.cluster.kubernetes.tools import build

_READY_SECONDS = 60.0
_COREFILE = """\
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local.backend {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
"""


class ControlPlane:
    """The services of the control plane, on a machine that is switched on."""

    def __init__(self, machine: Machine, users: Users, settings: Settings) -> None:
        self.machine, self.users, self.settings = machine, users, settings
        self.directory = machine.directory
        self._certificates = users.directory / "certificates"

    def start(self) -> None:
        """Starts everything, each part when what it needs answers."""
        self.users.write(self.settings)
        run("openssl", "genrsa", "-out", self._signing_key, "2048")
        self._start_etcd()
        self.start_api_server()
        self._start_controllers()
        self._start_dns()

    def start_api_server(self) -> None:
        """Starts the API server, and waits until it is ready."""
        self._start("kube-apiserver", *self._api_server_options())
        self._wait_for("kube-apiserver", self.is_ready)

    def stop_api_server(self) -> None:
        """Kills the API server; everything else goes on."""
        self.machine.stop("kube-apiserver")

    def is_ready(self) -> bool:
        """Whether the API server answers that it is ready."""
        certificate = self._certificates / "apiserver.crt"
        if self.machine.pid is None or not certificate.exists():
            return False
        line = [str(build.folder() / "bin" / "kubectl"), f"--kubeconfig={self.users.kubeconfig('admin')}"]
        asked = subprocess.run(
            [*line, "get", "--raw=/readyz", "--request-timeout=3s"], capture_output=True, check=False
        )
        return asked.returncode == 0

    @property
    def _signing_key(self) -> Path:
        return self.users.directory / "service-accounts.key"

    def _start_etcd(self) -> None:
        # Nothing here must survive a power cut of the real machine.
        data = self.directory / "etcd"
        self.machine.start("etcd", "etcd", f"--data-dir={data}", "--unsafe-no-fsync", "--log-level=warn")

    def _api_server_options(self) -> list[str]:
        return [
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={self.machine.address}",
            f"--cert-dir={self._certificates}",
            f"--token-auth-file={self.users.tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,PodSecurity",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            "--kubelet-preferred-address-types=InternalIP",  # the names of nodes stand in no DNS
        ]

    def _start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.users.kubeconfig('system:kube-controller-manager')}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self._signing_key}",
            f"--root-ca-file={self._certificates / 'apiserver.crt'}",
            f"--flex-volume-plugin-dir={self.directory / 'volume-plugins'}",
            "--node-monitor-grace-period=12s",  # tests need not wait for 40
            "--leader-elect=false",
        )
        scheduler = self.users.kubeconfig("system:kube-scheduler")
        self._start("kube-scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false")
        start_proxy(self.machine, self.users)  # the API server calls webhooks by their Services

    def _start_dns(self) -> None:
        corefile = self.directory / "Corefile"
        corefile.write_text(_COREFILE.format(address=self.machine.address, kubeconfig=self.users.kubeconfig("coredns")))
        self._start("coredns", "-conf", corefile)

    def _wait_for(self, name: str, condition: Callable[[], object]) -> None:
        wait_until(condition, _READY_SECONDS, lambda: f"{name} is not ready: {self.machine.last_words(name)}")

    def _start(self, name: str, *options: str | Path) -> None:
        self.machine.start(name, build.folder() / "bin" / name, *options)
