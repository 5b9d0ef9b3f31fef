"""Plans for GPUs that are not here, and plans side by side: what `tuneyard plan --gpu` and `--compare` ask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cluster.submitting.site_profiles import SiteProfile
from launcher.calibration.correction import Calibration
from launcher.dataset.size import DatasetSize
from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.planner.plan import Plan, make_plan
from launcher.planner.remote import UNKNOWN_HOST_BYTES
from launcher.site.hardware import Machine
from launcher.sizing.gpus import GpuCount, parse_gpus
from rundir.errors import TuneyardError
from trainer.config import ENGINES

HAS_NUMBER = re.compile(r"\s*-?\d+\s*[x*]|.*:\s*-?\d+\s*$", re.I)


def imagined(job: JobFile, text: str) -> tuple[JobFile, Machine]:
    """The job and a node for GPUs that need not be here.

    Args:
        job: The job file.
        text: `8xH100-80` for exactly so many; `H100-80` alone leaves the number of nodes open.

    Raises:
        JobError: the GPU is unknown, or whole nodes do not make the number.
    """
    asked = parse_gpus(text)
    gpu = asked.gpu
    per_node, nodes = _nodes(asked) if HAS_NUMBER.match(text) else (gpu.per_node, "auto")
    resources = job.resources.model_copy(
        update={"gpu": "auto", "nodes": nodes, "gpus_per_node": per_node if nodes != "auto" else "auto"}
    )
    machine = Machine(
        num_cores=per_node,
        memory_bytes=UNKNOWN_HOST_BYTES,
        gpu_names=(gpu.name,) * per_node,
        gpu_memory_bytes=gpu.usable_bytes,
        is_imagined=True,
    )
    return job.model_copy(update={"resources": resources}), machine


def _nodes(asked: GpuCount) -> tuple[int, int | str]:
    """GPUs per node and the number of nodes.

    Raises:
        JobError: the last node would not be whole.
    """
    per_node = min(asked.count, asked.gpu.per_node)
    nodes, rest = divmod(asked.count, per_node)
    if rest:
        near = f"{nodes * per_node} or {(nodes + 1) * per_node}"
        raise JobError(f"{asked.count} x {asked.gpu.name}: nodes have {per_node} of them", f"Nearest: {near}.")
    return per_node, nodes


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One engine's best plan, or why it has none."""

    engine: str
    plan: Plan | None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """The plan's layout and prediction, or the error."""
        if self.plan is None:
            return {"engine": self.engine, "fits": False, "error": self.error}
        document = self.plan.as_json()
        candidate = self.plan.choice.candidate.as_json()
        return {"fits": True, **candidate, "prediction": document["prediction"]}


def engines_in(text: str) -> list[str]:
    """The engines of a list such as `zero3,fsdp2`.

    Raises:
        JobError: one of them is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in ENGINES]:
        raise JobError(f"--compare: unknown engine {wrong[0]!r}", f"Known: {', '.join(ENGINES)}.")
    return list(dict.fromkeys(names))


def compare(
    job: JobFile,
    machine: Machine,
    engines: list[str],
    profile: SiteProfile | None = None,
    calibration: Calibration | None = None,
    tokenised: DatasetSize | None = None,
) -> list[Compared]:
    """The best plan of each engine, the best first; those that fit come before those that do not."""
    found = [_planned(job, machine, engine, profile, calibration, tokenised) for engine in engines]
    return sorted(found, key=lambda one: one.plan.choice.candidate.gpu_time if one.plan else float("inf"))


def _planned(
    job: JobFile,
    machine: Machine,
    engine: str,
    profile: SiteProfile | None,
    calibration: Calibration | None,
    tokenised: DatasetSize | None,
) -> Compared:
    resources = job.resources.model_copy(update={"engine": engine})
    try:
        changed = job.model_copy(update={"resources": resources})
        plan = make_plan(changed, machine, profile, calibration=calibration, tokenised=tokenised)
        return Compared(engine=engine, plan=plan)
    except TuneyardError as error:
        return Compared(engine=engine, plan=None, error=f"{error.message}. {error.remedy}".strip())
