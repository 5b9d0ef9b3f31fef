"""SLURM's commands: lists of arguments in, typed facts out, refusals in the scheduler's words with a remedy."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cluster.slurm.scheduler.accounting import ASSOCIATION_FIELDS, QOS_FIELDS, Accounts, parse_associations, parse_qos
from cluster.slurm.scheduler.errors import SlurmError, absent, refusal
from cluster.slurm.scheduler.facts import (
    SACCT_FIELDS,
    Node,
    Partition,
    SlurmJob,
    parse_config,
    parse_jobs,
    parse_nodes,
    parse_partitions,
    parse_sacct,
    parse_version,
)
from rundir.quantities import count

Fact = TypeVar("Fact")
RETRY_SECONDS = (1.0, 3.0, 6.0)
_TIMEOUT_SECONDS = 120.0
_PREFIXES = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SCANCEL_", "SQUEUE_", "SINFO_", "SACCT_", "SCONTROL_", "PMI")
_REVOKED_SECONDS = 2.0
_NEVER_REACHED = "connect failure"


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what another job or a habit left there, as SLURM_CPU_BIND or SBATCH_ACCOUNT.

    Submitting from within a job would else hand that job's binding down to ours.
    """
    found = os.environ if environment is None else environment
    return {name: value for name, value in found.items() if name == "SLURM_CONF" or not name.startswith(_PREFIXES)}


class Scheduler:
    """The SLURM that this machine talks to."""

    def __init__(self, retry_seconds: Sequence[float] = RETRY_SECONDS) -> None:
        self._retry_seconds = tuple(retry_seconds)

    def sbatch(self, script: Path, *arguments: str) -> str:
        """Submits a script and gives the job's number.

        Raises:
            SlurmError: it was refused. When an answer did not arrive the script may have been accepted all the
                same, so that is never tried twice.
        """
        output = self._run(["sbatch", "--parsable", *arguments, str(script)], submits=True)
        return output.strip().splitlines()[-1].partition(";")[0]

    def test_only(self, script: Path, *arguments: str) -> str:
        """What SLURM says to the script without taking it: when and where it would start."""
        done = self._ask(["sbatch", "--test-only", *arguments, str(script)])
        if done.returncode != 0:
            raise refusal("sbatch --test-only", done.stderr or done.stdout)
        return done.stderr.strip().removeprefix("sbatch: ")

    def job(self, job_id: str) -> SlurmJob | None:
        """One job: from the controller, else from accounting; None where neither knows it."""
        found = self.jobs(job_id)
        # tasks of an array that wait are one record, `4711_[2-7]`, whichever of them was asked for
        return replace(found[0], id=job_id) if found else None

    def jobs(self, job_id: str) -> list[SlurmJob]:
        """A job, or every task of a job array."""
        try:
            return parse_jobs(self._run(["scontrol", "show", "job", job_id]))
        except SlurmError as error:
            if error.kind != "unknown_job":
                raise
        return self._accounted(job_id)

    def cancel(self, job_id: str) -> None:
        """Ends a job: SIGTERM, and SIGKILL after KillWait. One that has ended already is no error."""
        try:
            self._run(["scancel", job_id])
        except SlurmError as error:
            if error.kind != "unknown_job":
                raise

    def requeue(self, job_id: str) -> None:
        """Ends a job and puts it back into the queue."""
        self._run(["scontrol", "requeue", job_id])

    def release(self, job_id: str) -> None:
        """Takes a hold from a job."""
        self._run(["scontrol", "release", job_id])

    def start_now(self, job_id: str) -> None:
        """Ends the wait after a requeue; sites allow that to operators only.

        Not within the second of the requeue: nodes would take the new credential for the revoked one, and the job
        fails for good.
        """
        job = self.job(job_id)
        if job is not None and job.submitted is not None:
            time.sleep(min(_REVOKED_SECONDS, max(0.0, job.submitted + _REVOKED_SECONDS - time.time())))
        self._run(["scontrol", "update", f"jobid={job_id}", "starttime=now"])

    def exclude(self, job_id: str, nodes: Sequence[str]) -> None:
        """Keeps a pending job away from nodes."""
        self._run(["scontrol", "update", f"jobid={job_id}", f"excnodelist={','.join(nodes)}"])

    def hostnames(self, nodes: str) -> list[str]:
        """The names in a compressed node list."""
        return self._run(["scontrol", "show", "hostnames", nodes]).split()

    def node_facts(self, *names: str) -> list[Node]:
        """These nodes, or all."""
        return parse_nodes(self._run(["scontrol", "show", "node", *([",".join(names)] if names else [])]))

    def partitions(self) -> list[Partition]:
        """All partitions that this user may see."""
        return parse_partitions(self._run(["scontrol", "show", "partition"]))

    def accounts(self, cluster: str) -> Accounts | None:
        """What accounting allows this user on a cluster; None where it does not answer."""
        return readable(lambda: self._accounts(cluster, f"user={getpass.getuser()}"))

    def config(self) -> dict[str, str]:
        """The controller's settings."""
        return parse_config(self._run(["scontrol", "show", "config"]))

    def version(self) -> tuple[int, ...]:
        """The version of the commands here, as numbers."""
        return parse_version(self._run(["sbatch", "--version"]))

    def jobs_ahead(self, job: SlurmJob) -> int:
        """How many pending jobs of its partition have a higher priority."""
        line = ["squeue", "--noheader", "--states=PENDING", f"--partition={job.partition}", "--format=%Q"]
        priorities = [int(word) for word in self._run(line).split() if word.isdecimal()]
        return sum(priority > (job.priority or 0) for priority in priorities)

    def limits(self, job: SlurmJob) -> str:
        """What the controller knows of the limits on the job's account and QOS, in its own words."""
        chosen = [f"accounts={job.account}"] * bool(job.account) + [f"qos={job.qos}"] * bool(job.qos)
        return self._run(["scontrol", "show", "assoc_mgr", "flags=assoc,qos", *chosen])

    def _accounts(self, cluster: str, whose: str) -> Accounts:
        show = ("sacctmgr", "--noheader", "--parsable2", "show")
        chosen = ("where", whose, f"cluster={cluster}", f"format={','.join(ASSOCIATION_FIELDS)}")
        default = self._run([*show, "user", whose, "format=DefaultAccount"]).strip()
        associations = parse_associations(self._run([*show, "association", *chosen]))
        return Accounts(default, associations, parse_qos(self._run([*show, "qos", f"format={','.join(QOS_FIELDS)}"])))

    def _accounted(self, job_id: str) -> list[SlurmJob]:
        # Without slurmdbd, and where the old completion log is all there is, `-c` reads that.
        for extra in ([], ["--completion"]):
            line = ["sacct", *extra, "--allocations", "--noheader", "--parsable2", f"--jobs={job_id}"]
            done = self._ask([*line, f"--format={','.join(SACCT_FIELDS)}"])
            if done.returncode == 0 and (found := parse_sacct(done.stdout)):
                return found
        return []

    def _run(self, command: list[str], *, submits: bool = False) -> str:
        """A command's output; tried again while the controller cannot be reached, then SlurmError."""
        tries = len(self._retry_seconds) + 1
        for wait_seconds in (*self._retry_seconds, None):
            done = self._ask(command)
            if done.returncode == 0:
                return done.stdout
            error = refusal(_name(command), done.stderr or done.stdout)
            if error.kind != "unreachable" or (submits and _NEVER_REACHED not in error.words):
                raise error
            if wait_seconds is not None:
                time.sleep(wait_seconds)
        raise SlurmError(
            f"{error.message} (tried {count(tries, 'time')})", error.remedy, kind=error.kind, words=error.words
        )

    def _ask(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise absent(command[0]) from None
        except subprocess.TimeoutExpired:
            words = f"Socket timed out: no answer in {_TIMEOUT_SECONDS:.0f} s"
            return subprocess.CompletedProcess(command, 1, "", words)


def readable(read: Callable[[], Fact]) -> Fact | None:
    """What is read; None where the scheduler does not say."""
    try:
        return read()
    except SlurmError:
        return None


def _name(command: list[str]) -> str:
    words = [word for word in command[:3] if not word.startswith(("-", "/"))]
    return " ".join(words)
