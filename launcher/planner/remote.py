"""Plans for a cluster's nodes, from the job file and the site profile."""

from __future__ import annotations

import os
import re
from typing import Any

from cluster.submitting.site_profiles import SiteProfile
from launcher.home import expanded
from launcher.jobfile.schema import JobFile
from launcher.site.hardware import Machine, this_machine
from launcher.sizing.gpus import known_gpu
from launcher.yamlfile.problems import SettingError
from rundir.quantities import GIB, walltime_seconds

UNKNOWN_HOST_BYTES = 1024**4


def machine_of(job: JobFile, profile: SiteProfile) -> Machine:
    """One node of where the job is to run.

    Raises:
        SettingError: the job file and the profile do not say what the nodes have.
        MachineError: this machine's own driver does not answer.
    """
    gpu, resources = job.resources.gpu, job.resources
    if gpu == "none":
        here = this_machine()  # of a login node, but nothing better is known
        told = None if resources.cpu_ranks == "auto" else profile.host_bytes(resources.cpu_ranks)
        return Machine(num_cores=here.num_cores, memory_bytes=told or here.memory_bytes)
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
        memory_bytes=profile.host_bytes(num_gpus) or UNKNOWN_HOST_BYTES,
        gpu_names=(gpu,) * num_gpus,
        gpu_memory_bytes=_gpu_bytes(gpu),
    )


def cluster_json(job: JobFile, profile: SiteProfile, ranks_per_node: int, device: str, threads: int) -> dict[str, Any]:
    """The backend's part of plan.json's `launch`.

    Raises:
        SettingError: the walltime is longer than the site allows.
    """
    cpus = ranks_per_node * (threads if device == "cpu" else profile.cpus_per_gpu or 0)
    found: dict[str, Any] = {
        "backend": profile.backend,
        "profile": profile.name,
        profile.backend: profile.site(job.resources.gpu, _version(profile.backend, device)),
    }
    if cpus:
        found["cpus_per_node"] = cpus
    if profile.run_folder():
        found["run_root"] = str(expanded(os.path.expandvars(profile.run_folder())))
    asked, most = job.resources.walltime, profile.max_walltime
    if asked and most and walltime_seconds(asked) > walltime_seconds(most):
        raise SettingError(
            "resources.walltime", f"is longer than profile {profile.name} allows", got=asked, remedy=f"At most {most}."
        )
    if asked or most:
        found["walltime_seconds"] = walltime_seconds(asked or most)
    return found


def job_there(job: JobFile, profile: SiteProfile) -> JobFile:
    """The job with paths as the cluster's nodes see them.

    Raises:
        SettingError: one of them is on this machine only.
    """

    def there(setting: str, path: str) -> str:
        seen = profile.there(path)
        if seen is None:
            remedy = "Put it on a claim, and name that in the profile's `volumes`, with `local` if it is mounted here."
            raise SettingError(setting, f"no volume of profile {profile.name} holds it", got=path, remedy=remedy)
        return seen

    def moved(section: Any, name: str, setting: str) -> Any:
        path = getattr(section, name)
        return section.model_copy(update={name: there(setting, path)}) if path else section

    train = [moved(source, "path", f"data.train.{number}.path") for number, source in enumerate(job.data.train)]
    data = job.data.model_copy(update={"train": train, "eval": moved(job.data.eval, "path", "data.eval.path")})
    if (data.chat_template or "").endswith(".jinja"):
        data = moved(data, "chat_template", "data.chat_template")
    evaluation = moved(job.evaluation, "generate", "evaluation.generate")
    model = moved(job.model, "path", "model.path")
    return job.model_copy(update={"model": model, "data": data, "evaluation": evaluation})


def _version(backend: str, device: str) -> tuple[int, ...]:
    """SLURM's version if GPUs are requested and SLURM is installed here; plans do not need it."""
    if device == "cpu" or backend != "slurm":
        return ()
    from cluster.slurm.scheduler.commands import Scheduler
    from cluster.slurm.scheduler.errors import SlurmError

    try:
        return Scheduler(retry_seconds=()).version()
    except SlurmError:
        return ()


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


def _examples(kinds: list[str]) -> str:
    known = f"The profile knows {', '.join(kinds)}." if kinds else "Such as h100-80."
    return f"{known} `none` trains on the CPU."
