"""Create a run directory on a cluster's storage, from its pods: all pods try at once, and one of them succeeds.

The plan was made outside the cluster, or is made here for the hardware of this pod. All files it names must exist.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import JobError, MachineError
from launcher.jobfile import JobFile, SettingError
from launcher.jobfile.paths import path_settings
from launcher.planner.plan import Plan, make_plan
from launcher.site.hardware import Machine, this_machine
from launcher.site.job import load_job
from launcher.yamlfile.problems import dotted
from rundir import plan as plan_file
from rundir.files import atomic_write, write_json
from rundir.paths import PLAN
from rundir.quantities import count

NODES_VARIABLE = "TUNEYARD_NODES_COUNT"
POD_GPUS_VARIABLE = "TUNEYARD_POD_GPUS"
JOB = "job.yaml"
BACKEND = "kubernetes"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_MOUNTS = "Paths are those in the pods: mount the volume that holds it there (the chart's `volumes` and `runs`)."


@dataclass(frozen=True, kw_only=True)
class PodSetup:
    """What the pods of the run have."""

    base: Path
    """What relative paths in the job file are relative to."""
    nodes: int | None = None
    gpus: int | None = None
    """GPUs that each pod asks for; `None` when nobody says."""


def place_run(run_dir: Path, job_file: Path, plan_file: Path | None, setup: PodSetup) -> str:
    """Create a run directory unless it exists, and return a line that says what was done.

    Args:
        run_dir: The directory, whose parent exists.
        job_file: What was asked.
        plan_file: What was decided; `None` decides it here.
        setup: Number of pods, their GPUs, and the folder of relative paths.

    Raises:
        JobError: another job lies there; the plan names what is not here; the job does not fit these pods.
        MachineError: the directory cannot be made.
    """
    job_text = _read(job_file)
    if run_dir.exists() and plan_file is None:
        return _left_alone(run_dir, job_text)
    plan = _plan_here(job_file, setup) if plan_file is None else _given_plan(plan_file, setup)
    if run_dir.exists():
        return _revised(run_dir, job_text, plan) or _left_alone(run_dir, job_text)
    try:
        made = _make(run_dir, job_text, plan)
    except OSError as error:
        raise MachineError(
            f"{run_dir}: cannot be made: {error.strerror}", "Mount a volume there that this user may write to."
        ) from error
    if not made:
        return _left_alone(run_dir, job_text)
    launch = plan["launch"]
    nodes, ranks = count(launch["nodes"], "node"), count(launch["ranks_per_node"], "rank")
    return f"placed {run_dir}: {nodes} with {ranks} each, on {launch['device']}"


def _left_alone(run_dir: Path, job_text: bytes) -> str:
    if not (run_dir / JOB).is_file() or not (run_dir / PLAN).is_file():
        raise JobError(f"{run_dir}: is there, and holds no run", "Name a run directory of its own (`run.name`).")
    if _digest((run_dir / JOB).read_bytes()) != _digest(job_text):
        raise JobError(
            f"{run_dir}: holds the run of another job file", "Give the new job a name of its own (`run.name`)."
        )
    return f"{run_dir} is there already, with this job"


def _revised(run_dir: Path, job_text: bytes, plan: dict[str, Any]) -> str:
    """Puts a plan in place that `tuneyard resume` has made of the one that lies here; empty when it is no such plan.

    What lay here is kept under the number of its changes, so all pods of the run do the very same.
    """
    if not (run_dir / JOB).is_file() or not (run_dir / PLAN).is_file():
        return ""
    before, now = plan_file.read_plan(run_dir).changes, plan_file.Plan.from_json(plan).changes
    if len(now) <= len(before) or now[: len(before)] != before:
        return ""
    number = len(before)
    _keep(run_dir / JOB, run_dir / f"job-{number:03d}.yaml")
    _keep(run_dir / PLAN, run_dir / f"plan-{number:03d}.json")
    atomic_write(run_dir / JOB, job_text, many_hosts=True)
    write_json(run_dir / PLAN, plan)
    return f"{run_dir} goes on with a changed plan; the one before is plan-{number:03d}.json"


def _keep(file: Path, kept: Path) -> None:
    if not kept.exists():
        atomic_write(kept, file.read_bytes(), many_hosts=True)


def _make(run_dir: Path, job_text: bytes, plan: dict[str, Any]) -> bool:
    """Write the run directory under another name and rename it; False if another pod was first."""
    beside = run_dir.parent / f".placing-{run_dir.name}-{secrets.token_hex(4)}"
    try:
        (beside / "logs").mkdir(parents=True)
        (beside / JOB).write_bytes(job_text)
        write_json(beside / PLAN, plan)
        os.rename(beside, run_dir)  # noqa: PTH104
    except OSError as error:
        if error.errno not in _TAKEN or not run_dir.exists():
            raise
        return False
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def _given_plan(plan_file: Path, setup: PodSetup) -> dict[str, Any]:
    try:
        plan = json.loads(_read(plan_file))
        nodes = plan["launch"]["nodes"]
        trainer = plan["trainer"]
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{plan_file}: is no plan: {error}", "Submit the job again.") from None
    if setup.nodes is not None and nodes != setup.nodes:
        raise JobError(
            f"{plan_file}: the plan needs {count(nodes, 'node')}, and the run has {count(setup.nodes, 'pod')}",
            "Set `nodes`.",
        )
    _require_paths(trainer)
    checked: dict[str, Any] = plan
    return checked


def _require_paths(trainer: dict[str, Any]) -> None:
    """Refuse a plan with a local path that does not exist here, so that a missing mount is found before training."""
    missing = []
    for key in path_settings(trainer):
        value: Any = trainer
        for part in key:
            value = value[part]
        if value.startswith("/") and not Path(value).exists() and not glob.glob(value, recursive=True):  # noqa: PTH207
            missing.append(f"{dotted(key)}: {value} is not in this pod")
    if missing:
        raise JobError("; ".join(missing), _MOUNTS)


def _plan_here(job_file: Path, setup: PodSetup) -> dict[str, Any]:
    loaded, machine, nodes = load_job(job_file, setup.base), this_machine(), setup.nodes or 1
    _require_agreement(loaded.job, machine, nodes, setup.gpus)
    try:
        plan = make_plan(_spread(loaded.job, nodes), machine)
    except SettingError as error:
        raise loaded.located(error) from None
    except MachineError as error:  # the pods lack what the job asks for: another try will not help
        raise JobError(error.message, error.remedy) from None
    return _as_json(plan)


def _as_json(plan: Plan) -> dict[str, Any]:
    made = plan.as_json()
    return {**made, "launch": made["launch"] | {"backend": BACKEND}}


def _require_agreement(job: JobFile, machine: Machine, nodes: int, gpus: int | None) -> None:
    asked = job.resources.nodes
    if asked not in ("auto", nodes):
        raise JobError(
            f"resources.nodes asks for {asked}, and the run has {count(nodes, 'pod')}",
            f"Set the chart's `nodes` to {asked}.",
        )
    if gpus is not None and gpus > machine.num_gpus:
        raise JobError(
            f"each pod asks for {count(gpus, 'GPU')}, and this container sees {machine.num_gpus}",
            "Give the init container the same resources, or set `runtimeClassName` as the cluster wants it.",
        )


def _spread(job: JobFile, nodes: int) -> JobFile:
    """Return the job with the number of pods as its number of nodes; `nodes: auto` has no choice here."""
    resources = job.resources.model_copy(update={"nodes": nodes})
    cluster = job.cluster.model_copy(update={"profile": BACKEND})
    return job.model_copy(update={"resources": resources, "cluster": cluster})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}", "Name a file that is there.") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
