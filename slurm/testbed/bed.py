"""The testbed as a whole: boot it, break it, tear it down."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

from slurm.testbed import accounting
from slurm.testbed.config import CGROUP_CONF, CONTROLLER, NO_ACCOUNTING, Settings, free_ports, gres_conf, slurm_conf
from slurm.testbed.host import Host, TestbedError, require_machine, wait_until

_BOOT_SECONDS = 60.0
_REVOKED_SECONDS = 2.0
"""Nodes refuse a job whose credential is as old as the revocation of its last one, and SLURM gives it up: FAILED."""
_MARK = "tuneyard-testbed"
_OWN_PREFIXES = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "SINFO", "SACCT", "SALLOC", "SCANCEL", "PMI")


class Testbed:
    """A SLURM of its own in `directory`. Nothing outside that folder is written."""

    __test__ = False  # not a test class

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.directory = directory.absolute()
        self.settings = settings or Settings()
        self.conf = self.directory / "etc" / "slurm.conf"

    def up(self) -> bool:
        """Boots; False when it is up already. What a killed testbed left in the folder is removed first."""
        require_machine()
        if self.settings.accounting:
            accounting.require_accounting()
        if self.is_up():
            return False
        self.down()
        try:
            self._write()
            self._boot()
        except BaseException:
            self.down()
            raise
        return True

    def down(self) -> bool:
        """Ends every process of the testbed and removes its folder; False when there was none."""
        if not self.directory.exists():
            return False
        if not (self.directory / _MARK).exists():
            raise TestbedError(f"{self.directory} is not a testbed's folder; name another one with --dir")
        for name in [*self._known_hosts(), CONTROLLER]:
            self.host(name).kill()
        shutil.rmtree(self.directory)
        return True

    def is_up(self) -> bool:
        """Whether the controller answers."""
        return self.conf.exists() and self._ask("scontrol", "ping").returncode == 0

    def host(self, name: str) -> Host:
        """One of its hosts: `ctl`, or a node."""
        return Host(name, self.directory / name, self.directory / "etc")

    def environment(self) -> dict[str, str]:
        """This process's environment with SLURM_CONF, and without variables of another SLURM."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIXES)}
        return {**own, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str | Path) -> str:
        """The output of a SLURM command; TestbedError with its words when it fails."""
        done = self._ask(*command)
        if done.returncode != 0:
            raise TestbedError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def node_states(self) -> dict[str, str]:
        """Each node's state in SLURM's words, lower case, with its flags (`idle`, `down*`, ...)."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return {name: state for name, _, state in (line.partition(" ") for line in lines)}

    def kill_slurmd(self, node: str) -> None:
        """Kills a node's daemon; the job's processes go on, and SLURM calls the node down in some 18 seconds."""
        self.host(node).kill("slurmd")

    def power_off(self, node: str) -> None:
        """Kills everything on a node at once: daemon, steps, and the jobs' processes."""
        self.host(node).kill()

    def power_on(self, node: str) -> None:
        """Starts a node's daemon again, and waits until SLURM has it back."""
        self.host(node).start("slurmd", "-N", node)
        self.resume_node(node)

    def resume_node(self, node: str) -> None:
        """Takes a node that is down or drained back into service, and waits until it is."""

        def is_back() -> bool:
            state = self.node_states().get(node, "gone")
            if state.startswith(("down", "drain", "fail")) and not state.endswith("*"):
                self._ask("scontrol", "update", f"nodename={node}", "state=resume")
            return state in ("idle", "mixed", "allocated", "completing")

        wait_until(is_back, _BOOT_SECONDS, lambda: f"{node} is {self.node_states().get(node)}")

    def restart_controller(self) -> None:
        """Ends the controller and starts it again on its saved state."""
        self.stop_controller()
        self.start_controller()

    def stop_controller(self) -> None:
        """Ends the controller, which saves its state first; commands then find nobody."""
        self.host(CONTROLLER).kill("slurmctld", signal.SIGTERM)

    def start_controller(self) -> None:
        """Starts the controller on its saved state."""
        self.host(CONTROLLER).start("slurmctld")
        wait_until(self.is_up, _BOOT_SECONDS, lambda: f"no controller: {self.host(CONTROLLER).last_words()}")

    def release(self, *job_ids: str) -> list[str]:
        """Lets requeued jobs start now that would wait some seconds more; all of them without a number."""
        waiting = self.run("squeue", "--noheader", "--states=PENDING", "--format=%A %V %r").splitlines()
        found = {line.split()[0]: line.split()[1] for line in waiting if line.endswith(" BeginTime")}
        released = [job for job in found if not job_ids or job in job_ids]
        for job in released:
            requeued = time.mktime(time.strptime(found[job], "%Y-%m-%dT%H:%M:%S"))
            time.sleep(max(0.0, requeued + _REVOKED_SECONDS - time.time()))
            self.run("scontrol", "update", f"jobid={job}", "starttime=now")
        return released

    def reset(self) -> None:
        """Cancels every job and mends every node, for the next test."""
        self._ask("scancel", "--user=root", "--full", "--signal=KILL")
        self._ask("scancel", "--user=root")
        for node, state in self.node_states().items():
            if not self.host(node).processes("slurmd"):
                self.host(node).start("slurmd", "-N", node)
            if state != "idle":
                self.resume_node(node)
        states = ("--states=all", "--noheader", "--format=%T")
        busy = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING")
        wait_until(lambda: not set(self.run("squeue", *states).split()) & set(busy), _BOOT_SECONDS, "jobs stay")

    def _write(self) -> None:
        etc = self.directory / "etc"
        etc.mkdir(parents=True)
        self.directory.chmod(0o755)  # other users' commands read slurm.conf and reach the socket
        (self.directory / _MARK).touch()
        names = [CONTROLLER, *self.settings.node_names]
        for name in names:
            self.host(name).prepare(names)
            (self.directory / name / "spool").mkdir()
        for number in range(self.settings.gpus_per_node):
            # A device that exists everywhere (/dev/null's): for a plain file SLURM sets no CUDA_VISIBLE_DEVICES.
            os.mknod(self.directory / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        ports, more = free_ports(len(names) + 2), NO_ACCOUNTING
        if self.settings.accounting:
            more = accounting.slurm_conf(ports[-2:], self.directory / CONTROLLER / "munge.socket")
            self._accounting.write(ports[-2:])
        self.conf.write_text(slurm_conf(self.directory, self.settings, ports[:-2], more))
        (etc / "gres.conf").write_text(gres_conf(self.directory, self.settings))
        (etc / "cgroup.conf").write_text(CGROUP_CONF)
        self._write_key()

    def _write_key(self) -> None:
        key = self.directory / CONTROLLER / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _boot(self) -> None:
        controller = self.host(CONTROLLER)
        own = self.directory / CONTROLLER
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        controller.start("munged", "--force", *(f"--{option}={own / file}" for option, file in files.items()))
        if self.settings.accounting:
            self._accounting.start()
            self._accounting.wait_for(lambda *command: self._ask(*command).returncode == 0)
        self.start_controller()
        if self.settings.accounting:
            self._accounting.fill(self.run)
        for node in self.settings.node_names:
            self.host(node).start("slurmd", "-N", node)
        wait_until(self._is_ready, _BOOT_SECONDS, lambda: f"nodes are {self.node_states()}")

    @property
    def _accounting(self) -> accounting.Accounting:
        return accounting.Accounting(self.host(CONTROLLER), self.directory / "etc")

    def _is_ready(self) -> bool:
        return set(self.node_states().values()) == {"idle"}

    def _known_hosts(self) -> list[str]:
        return sorted(path.parent.name for path in self.directory.glob("*/hosts"))

    def _ask(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        line = [str(part) for part in command]
        return subprocess.run(line, env=self.environment(), capture_output=True, text=True, check=False)
