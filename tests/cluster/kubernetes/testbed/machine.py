"""A pretended machine: processes, mounts, host name and network of its own, which all end with its first process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.kubernetes.testbed.host import (
    PATH,
    TestbedError,
    is_dead,
    namespace_of,
    processes,
    run,
    wait_until,
)
from tests.cluster.kubernetes.testbed.images import needed_folders
from tests.cluster.kubernetes.testbed.places import Place
from tests.cluster.kubernetes.tools import build

MARK = "tuneyard-kubernetes-testbed"
_SECONDS = 20.0
# The kubelet insists on these. They are the whole machine's, so it finds files of its own in their place instead.
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# Mounts made here are seen by containers that ask for it (as on a real node), and never by the real machine.
_BOOT = """
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/sysctl /run/cgroup
# The network in /sys is that of its mount; the control groups stay.
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
mount --make-rprivate /run/cgroup
umount --recursive --lazy /run/cgroup
echo "$1" > /proc/sys/kernel/hostname
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries  # else connections of the dead keep the network for minutes
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true
shift
while [ $# -gt 0 ]; do
  test ! -e "/proc/sys/$1" || { f=/run/sysctl/$(echo "$1" | tr / .); echo "$2" > $f; mount --bind $f "/proc/sys/$1"; }
  shift 2
done
"""


# Programs insist on folders in /var (/var/lib/kubelet, /var/lib/cni, /var/log/containers): each machine has its own.
_EMPTY_VAR = """
for folder; do mkdir -p "/run/kept$folder"; mount --rbind "$folder" "/run/kept$folder"; done
mount -t tmpfs -o mode=755 tmpfs /var
mkdir -p /var/lib /var/log /var/tmp
ln -s /run /var/run
for folder; do mkdir -p "$folder"; mount --rbind "/run/kept$folder" "$folder"; done
"""


class Machine:
    """One machine, known by its folder: that stands in the arguments of its first process."""

    def __init__(self, name: str, directory: Path, place: Place) -> None:
        self.name, self.directory, self.place = name, directory, place
        self.address = place.address(name)

    @property
    def pid(self) -> int | None:
        """The real number of its first process; None when it is switched off."""
        return next((pid for pid, words in self._own_lines() if words[0].endswith("/pause")), None)

    def power_on(self, *keep_open: int) -> None:
        """Switches it on, without any service. `keep_open` are files that stay open as long as it runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        spaces = ("--mount", "--mount-proc", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
        first = [str(build.folder() / "bin" / "pause"), MARK, str(self.directory)]
        self._launch(["unshare", *spaces, "--", *first], "boot.log", keep_open)
        wait_until(lambda: self.pid, _SECONDS, lambda: f"{self.name} does not start: {self.last_words('boot')}")
        kept = [folder for folder in (self.directory.parent, *needed_folders()) if folder.is_relative_to("/var")]
        self.enter("sh", "-ec", _EMPTY_VAR, "sh", *kept)
        sysctls = [str(part) for pair in _SYSCTLS.items() for part in pair]
        self.enter("sh", "-ec", _BOOT, "sh", self.name, *sysctls)

    def power_off(self) -> None:
        """Ends everything on it at once, containers too, as a power cut would."""

        doors = self._doors()
        while pids := [pid for pid, _ in self._own_lines()]:
            _end(pids, f"{self.name}: its processes cannot be ended")
        wait_until(lambda: all(is_dead(pid) for pid in doors), _SECONDS, f"{self.name}: a door stays open")

    def enter(self, *command: str | Path, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """The output of a command that runs on it."""
        return run(*self._door(), *command, text=text, env=env or {"PATH": PATH})

    def start(self, name: str, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Starts a service, which writes to `<name>.log`."""
        self._launch([*self._door(), *map(str, command)], f"{name}.log", env=env)

    def stop(self, program: str) -> None:
        """Kills the service of that program, and waits until it is gone."""
        _end(self.service(program), f"{self.name}: {program} does not end")

    def service(self, program: str) -> list[int]:
        """The real process numbers of a service, nothing when it does not run."""
        first = self.pid
        own = namespace_of(first, "pid") if first else None
        found = [pid for pid, words in processes() if words and Path(words[0]).name == program]
        return [pid for pid in found if own and namespace_of(pid, "pid") == own]

    def last_words(self, name: str) -> str:
        """The end of what a service has said, for an error message."""
        log = self.directory / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(line for line in lines[-4:] if line.strip())

    def _own_lines(self) -> list[tuple[int, list[str]]]:
        return [(pid, words) for pid, words in processes() if words[-2:] == [MARK, str(self.directory)]]

    def _doors(self) -> list[int]:
        """What stands outside and waits for a service inside; it ends by itself a moment after that."""
        return [
            pid for pid, words in processes() if (first := self.pid) and words[:2] == ["nsenter", f"--target={first}"]
        ]

    def _door(self) -> list[str]:
        if (pid := self.pid) is None:
            raise TestbedError(f"{self.name} is switched off")
        return ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]

    def _launch(
        self, line: list[str], log: str, keep_open: tuple[int, ...] = (), env: Mapping[str, str] | None = None
    ) -> None:
        with open(self.directory / log, "ab") as output:
            subprocess.run(
                ["setsid", "--fork", *line],  # so that it is nobody's child and outlives this process
                env={"PATH": PATH, "HOME": "/root", **(env or {})},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=keep_open,
                check=True,
            )


def names_of_running(directory: Path) -> list[str]:
    """The names of machines with folders in `directory` that are switched on."""
    marked = [Path(words[-1]) for _, words in processes() if words[-2:-1] == [MARK]]
    return sorted({folder.name for folder in marked if folder.parent == directory})


def _end(pids: list[int], otherwise: str) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(is_dead(pid) for pid in pids), _SECONDS, otherwise)
