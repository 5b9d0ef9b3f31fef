"""One machine of the testbed: processes in a namespace of their own, found again by the `/etc/hosts` they see."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

APT_LINE = "apt-get install -y --no-install-recommends slurm-wlm munge"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "unshare")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_START_SECONDS = 20.0
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.05
# The hosts file is what tells this host's processes from all others; slurm.conf where the commands look for it.
_ENTER = """
echo "$1" > /proc/sys/kernel/hostname && mount --bind "$2" /etc/hosts && mount --bind "$3" /etc/slurm &&
shift 3 && exec "$@"
"""


class TestbedError(Exception):
    """The testbed cannot do that; the message says why and what to do."""

    __test__ = False  # not a test class


class Host:
    """A pretended machine, which lives in `directory`."""

    def __init__(self, name: str, directory: Path, slurm_etc: Path) -> None:
        self.name = name
        self.directory = directory
        self._hosts, self._slurm_etc = directory / "hosts", slurm_etc

    def prepare(self, all_names: list[str]) -> None:
        """Makes the host's own folder and its `/etc/hosts`, in which every host of the testbed has an address."""
        self.directory.mkdir(parents=True)
        own = Path("/etc/hosts").read_text(encoding="utf-8", errors="replace")
        self._hosts.write_text(f"{own}\n127.0.0.1 {' '.join(all_names)}\n", encoding="utf-8")

    def start(self, *command: str | Path) -> None:
        """Runs a daemon on this host; it goes to the background by itself."""
        enter = ["unshare", "--mount", "--uts", "--propagation", "slave", "sh", "-ec", _ENTER, "sh"]
        line = [*enter, self.name, self._hosts, self._slurm_etc, *command]
        with open(self.directory / "start.log", "ab") as log:
            done = subprocess.run(
                [str(part) for part in line],
                env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_START_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise TestbedError(f"{self.name}: {Path(command[0]).name} did not start: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what the host's daemons have said, for an error message."""
        logs = sorted(self.directory.glob("*.log"), key=lambda path: path.stat().st_mtime)
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])

    def processes(self, name: str | None = None) -> list[int]:
        """Process numbers of all that runs on this host, or of what is called `name`."""
        return [pid for pid in _all_processes() if self._is_mine(pid) and name in (None, _name_of(pid))]

    def kill(self, name: str | None = None, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the processes called `name`, or everything at once, as a power cut would."""

        def none_left() -> bool:
            left = self.processes(name)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            return not left

        wait_until(none_left, _KILL_SECONDS, f"{self.name}: processes cannot be ended")

    def _is_mine(self, pid: int) -> bool:
        try:
            return os.path.samefile(f"/proc/{pid}/root/etc/hosts", self._hosts)  # noqa: PTH121
        except OSError:  # gone meanwhile, or a kernel thread
            return False


def require_machine() -> None:
    """Raises TestbedError unless this machine can carry a testbed."""
    if os.geteuid() != 0:
        raise TestbedError("the testbed needs root: several node daemons, each in a namespace of its own")
    missing = [command for command in COMMANDS if shutil.which(command, path=PATH) is None]
    if missing:
        raise TestbedError(f"not installed: {', '.join(missing)}\n{APT_LINE}")
    probe = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise TestbedError(f"namespaces are not allowed here (in a container: add CAP_SYS_ADMIN): {probe.stderr}")


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str | Callable[[], str]) -> None:
    """Polls until `condition` holds; raises TestbedError with `otherwise` when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(_POLL_SECONDS)


def _all_processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
