"""The testbed's accounting: a database, slurmdbd, accounts and QOS. Only with it does SLURM know limits and whose."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from slurm.testbed.host import PATH, Host, TestbedError, wait_until

APT_LINE = "apt-get install -y --no-install-recommends slurmdbd mariadb-server"
COMMANDS = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr")
QOS = {
    "small": ["GraceTime=0", "MaxWall=5", "MaxTRESPerUser=gres/gpu=8", "MaxSubmitJobsPerUser=2"],
    "scavenger": ["GraceTime=20", "PreemptMode=requeue"],
    "leftover": ["GraceTime=20", "PreemptMode=cancel"],
    "urgent": ["Preempt=scavenger,leftover"],
}
"""What each QOS beside `normal` is told: one is small, two give way to another after 20 s, to wait again or to end."""
ACCOUNTS = {"physics": [], "hungry": ["GrpTRES=gres/gpu=4"], "chemistry": []}
"""Each account with its limits."""
USERS = {
    "root": {"physics": "normal,small,scavenger,leftover,urgent", "hungry": "normal"},
    "nobody": {"chemistry": "normal"},
}
"""Each user's accounts, the default one first, with the QOS that may be used in it."""
_SECONDS = 60.0
_CLUSTER = "testbed"
_CHANGE = ("sacctmgr", "--immediate", "--quiet")


class Accounting:
    """Database and slurmdbd, which run on `host`."""

    def __init__(self, host: Host, slurm_etc: Path) -> None:
        self.host = host
        self._etc = slurm_etc

    def write(self, ports: list[int]) -> None:
        """Writes what both are told, and slurmdbd.conf beside slurm.conf. `ports`: the database's and slurmdbd's."""
        password = secrets.token_urlsafe(16)
        _write_private(self._etc / "slurmdbd.conf", _slurmdbd_conf(self.host, ports, password))
        own = self.host.directory
        _write_private(own / "password.sql", f"ALTER USER root@127.0.0.1 IDENTIFIED BY '{password}';\n")
        _write_private(own / "mariadb.cnf", _mariadb_conf(own, ports[0]))
        (own / "mariadb").mkdir(0o700)

    def start(self) -> None:
        """Starts database and slurmdbd."""
        own = self.host.directory
        told = f"--defaults-file={own}/mariadb.cnf"
        self.host.start("mariadb-install-db", told, "--auth-root-authentication-method=normal", "--skip-test-db")
        self.host.start("sh", "-c", 'setsid mariadbd "$@" >mariadb.log 2>&1 &', "sh", told)
        wait_until((own / "mariadb.socket").exists, _SECONDS, lambda: f"no database: {self.host.last_words()}")
        self.host.start("slurmdbd")

    def wait_for(self, answers: Callable[..., bool]) -> None:
        """Waits until slurmdbd has the cluster. The controller can start then, and brings GPUs to be limited."""
        add = (*_CHANGE, "add", "cluster", _CLUSTER)
        wait_until(lambda: answers(*add), _SECONDS, lambda: f"no slurmdbd: {self.host.last_words()}")

    def fill(self, run: Callable[..., str]) -> None:
        """Adds QOS, accounts and users."""
        for qos, limits in QOS.items():
            run(*_CHANGE, "add", "qos", qos, *limits)
        for account, limits in ACCOUNTS.items():
            run(*_CHANGE, "add", "account", account, f"Cluster={_CLUSTER}", *limits)
        for user, accounts in USERS.items():
            for account, qos in accounts.items():
                run(*_CHANGE, "add", "user", user, f"Account={account}", f"QosLevel={qos}", "DefaultQOS=normal")
            run(*_CHANGE, "modify", "user", user, "set", f"DefaultAccount={next(iter(accounts))}")


def require_accounting() -> None:
    """Raises TestbedError unless this machine has a database and slurmdbd."""
    if missing := [command for command in COMMANDS if shutil.which(command, path=PATH) is None]:
        raise TestbedError(f"not installed: {', '.join(missing)}\n{APT_LINE}")


def slurm_conf(ports: list[int], socket: Path) -> str:
    """What slurm.conf says about accounting, which uses munged's `socket`; preemption is then by QOS."""
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[1]}
AccountingStoragePass={socket}
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
PreemptType=preempt/qos
"""


def _write_private(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def _mariadb_conf(own: Path, port: int) -> str:
    # Nothing here must survive a power cut of the real machine.
    return f"""\
[mariadbd]
datadir={own}/mariadb
user=root
socket={own}/mariadb.socket
port={port}
bind-address=127.0.0.1
init-file={own}/password.sql
skip-name-resolve
innodb-lock-wait-timeout=900
innodb-flush-log-at-trx-commit=0
"""


def _slurmdbd_conf(host: Host, ports: list[int], password: str) -> str:
    own = host.directory
    return f"""\
AuthType=auth/munge
AuthInfo=socket={own}/munge.socket
DbdHost={host.name}
DbdAddr=127.0.0.1
DbdPort={ports[1]}
SlurmUser=root
LogFile={own}/slurmdbd.log
PidFile={own}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[0]}
StorageUser=root
StoragePass={password}
StorageLoc=accounts
"""
