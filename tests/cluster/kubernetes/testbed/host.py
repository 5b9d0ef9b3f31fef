"""The real machine: what it must have, running commands, waiting, finding processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.cluster.kubernetes.tools import build

PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
}
CNI = Path("/usr/lib/cni")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLL_SECONDS = 0.05


class TestbedError(Exception):
    """The testbed cannot do that; the message says why and what to do."""

    __test__ = False  # not a test class


class UnsuitableError(TestbedError):
    """This machine cannot carry a testbed at all."""


def require_machine() -> None:
    """Raises UnsuitableError unless this machine can carry a testbed."""
    if sys.platform != "linux":
        raise UnsuitableError("the Kubernetes testbed needs Linux")
    if os.geteuid() != 0:
        raise UnsuitableError("the Kubernetes testbed needs root: its nodes are namespaces of processes and networks")
    absent = {package for command, package in PACKAGES.items() if shutil.which(command, path=PATH) is None}
    absent |= set() if (CNI / "bridge").exists() else {"containernetworking-plugins"}
    if absent:
        line = f"apt-get install -y --no-install-recommends {' '.join(sorted(absent))}"
        raise UnsuitableError(f"not installed: {', '.join(sorted(absent))}\n{line}")
    if unbuilt := build.missing(addons=()):
        raise UnsuitableError(f"not built: {', '.join(unbuilt)}\nmake kubernetes-tools")


def run(*command: str | Path, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """The output of a command, which gets `text` on its input; TestbedError with its words when it fails."""
    line = [str(part) for part in command]
    done = subprocess.run(line, input=text, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TestbedError(f"{' '.join(line[:6])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str | Callable[[], str]) -> None:
    """Polls until `condition` holds; raises TestbedError with `otherwise` when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(_POLL_SECONDS)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Number and arguments of every process; kernel threads and the dead have no arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name), _arguments(entry)


def is_dead(pid: int) -> bool:
    """Whether a process is gone, with its files and, as the first one of a machine, with all others of that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def namespace_of(pid: int, kind: str) -> str | None:
    """Which namespace of a kind a process is in; None when the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")  # noqa: PTH115
    except OSError:
        return None


def _arguments(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:  # gone meanwhile
        return []
