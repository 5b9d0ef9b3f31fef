"""Planning for machines that are not this one: what a job file and a site profile say about a cluster's nodes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cluster.slurm.profile import Profile
from launcher.errors import SchedulerError
from launcher.hardware import Machine, this_machine
from launcher.jobfile.problems import SettingError
from launcher.jobfile.schema import JobFile
from launcher.launch import walltime_seconds
from launcher.sizing.gpus import known_gpu

GIB = 1024**3
NODE_LOCAL = ("/tmp/", "/var/tmp/", "/dev/shm/")
_UNITS = {"K": 1024, "M": 1024**2, "G": GIB, "T": 1024**4, "": 1024**2}
UNKNOWN_HOST_BYTES = 1024**4


def machine_of(job: JobFile, profile: Profile) -> Machine:
    """One node of where the job is to run.

    Raises:
        SettingError: the job file and the profile do not say what the nodes have.
        MachineError: this machine's own driver does not answer.
    """
    gpu, resources = job.resources.gpu, job.resources
    if gpu == "none":
        here = this_machine()  # of a login node, but nothing better is known
        return Machine(num_cores=here.num_cores, memory_bytes=here.memory_bytes)
    if gpu == "auto":
        kinds = sorted(profile.gpu_types)
        raise SettingError("resources.gpu", "must say which GPU", got=gpu, remedy=_examples(kinds))
    num_gpus = profile.gpus_per_node if resources.gpus_per_node == "auto" else resources.gpus_per_node
    if num_gpus is None:
        raise SettingError(
            "resources.gpus_per_node", "must say how many", got="auto", remedy="Or set it in the site profile."
        )
    return Machine(
        num_cores=num_gpus * (profile.cpus_per_gpu or 1),
        memory_bytes=_host_bytes(profile),
        gpu_names=(gpu,) * num_gpus,
        gpu_memory_bytes=_gpu_bytes(gpu),
    )


def cluster_json(job: JobFile, profile: Profile, ranks_per_node: int, device: str, threads: int) -> dict[str, Any]:
    """What a backend is told beside the agents' own settings: plan.json's `launch`, its last keys.

    Raises:
        SettingError: the walltime is longer than the site allows.
    """
    cpus = ranks_per_node * (threads if device == "cpu" else profile.cpus_per_gpu or 0)
    found: dict[str, Any] = {
        "backend": profile.backend,
        "profile": profile.name,
        profile.backend: profile.site(job.resources.gpu, _version(device)),
    }
    if cpus:
        found["cpus_per_node"] = cpus
    if profile.run_root:
        found["run_root"] = str(Path(os.path.expandvars(profile.run_root)).expanduser())
    asked, most = job.resources.walltime, profile.max_walltime
    if asked and most and walltime_seconds(asked) > walltime_seconds(most):
        raise SettingError(
            "resources.walltime", f"is longer than profile {profile.name} allows", got=asked, remedy=f"At most {most}."
        )
    if asked or most:
        found["walltime_seconds"] = walltime_seconds(asked or most)
    return found


def _version(device: str) -> tuple[int, ...]:
    """SLURM's, where GPUs are asked for and it is here; a plan can be made without it."""
    if device == "cpu":
        return ()
    from cluster.slurm.scheduler import Scheduler, SlurmError

    try:
        return Scheduler(retry_seconds=()).version()
    except SlurmError:
        return ()


def require_scheduler(backend: str) -> None:
    """Refuses early where nothing can be submitted from.

    Raises:
        SchedulerError: the scheduler's commands are not here.
    """
    if backend == "slurm":
        from cluster.slurm.scheduler import Scheduler, SlurmError

        try:
            Scheduler(retry_seconds=()).version()
        except SlurmError as error:
            raise SchedulerError(error.message, error.remedy) from None


def _gpu_bytes(gpu: str) -> int:
    size = re.fullmatch(r".*-(\d+)", gpu)
    known = known_gpu(gpu)
    if known is not None:
        return known.usable_bytes
    if size is None:
        raise SettingError(
            "resources.gpu", "does not say how much memory it has", got=gpu, remedy="Write it as in h100-80."
        )
    return int(size[1]) * GIB


def _host_bytes(profile: Profile) -> int:
    size = re.fullmatch(r"(\d+)([KMGT]?)", profile.memory)
    return int(size[1]) * _UNITS[size[2]] if size and int(size[1]) else UNKNOWN_HOST_BYTES


def _examples(kinds: list[str]) -> str:
    known = f"The profile knows {', '.join(kinds)}." if kinds else "Such as h100-80."
    return f"{known} `none` trains on the CPU."
