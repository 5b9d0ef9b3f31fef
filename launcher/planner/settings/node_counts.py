"""Node and GPU counts that divide a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from launcher.dataset.size import DatasetSize
from launcher.jobfile.schema import JobFile
from launcher.planner.settings.defaults import MOST_CPU_RANKS, StepLayout, decide_step_layout
from launcher.site.hardware import Machine
from launcher.sizing.shape import ModelShape
from launcher.yamlfile.problems import SettingError
from trainer.schedule_rules import FEW_STEPS

NODE_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512, 1024)
"""Numbers of nodes that are looked at: all small ones, and fewer and fewer of the large."""


def step_layouts_for(
    job: JobFile,
    machine: Machine,
    *,
    imagined: bool = False,
    shape: ModelShape | None = None,
    data: DatasetSize | None = None,
) -> list[StepLayout]:
    """A step layout for each number of ranks to consider; one where the job file leaves none open.

    Args:
        job: The job file.
        machine: One node.
        imagined: Whether there may be more such nodes than there are.
        shape: The model's shape; `None` where it is not known.
        data: How much data there is; `None` where nobody has looked.

    Raises:
        SettingError: no number of ranks divides the step, or a setting contradicts itself.
        MachineError: this machine does not have what is asked for.
    """
    node = replace(machine, is_imagined=True) if imagined else machine
    found, problem = [], None
    for ranks in _rank_settings(job, node, data):
        resources = job.resources.model_copy(update=ranks)
        try:
            found.append(
                decide_step_layout(job.model_copy(update={"resources": resources}), node, shape=shape, data=data)
            )
        except SettingError as error:
            problem = problem or error
    if problem and not found:
        raise problem
    return found


def _rank_settings(job: JobFile, machine: Machine, data: DatasetSize | None) -> list[dict[str, Any]]:
    """Settings of nodes and ranks to try; an empty one takes the job file's."""
    resources = job.resources
    if resources.gpu == "none" or not machine.num_gpus:
        ranks = min(MOST_CPU_RANKS, machine.num_cores)
        fewer = resources.cpu_ranks == "auto" and resources.nodes in ("auto", 1) and _leaves_few_steps(job, data, ranks)
        return [*([{"cpu_ranks": part} for part in range(1, ranks)] if fewer else []), {}]
    counts = [{"nodes": nodes} for nodes in _node_counts(job, machine)] or [{}]
    if resources.gpus_per_node != "auto" or resources.nodes not in ("auto", 1):
        return counts
    if resources.objective != "gpus" and not _leaves_few_steps(job, data, machine.num_gpus):
        return counts
    parts = [gpus for gpus in range(1, machine.num_gpus) if machine.num_gpus % gpus == 0]
    return [{"nodes": 1, "gpus_per_node": gpus} for gpus in parts] + counts


def _leaves_few_steps(job: JobFile, data: DatasetSize | None, ranks: int) -> bool:
    """Whether one pack per rank of a whole node leaves fewer than `FEW_STEPS` steps; never if the step size is set."""
    if data is None or not data.is_known or job.training.tokens_per_step != "auto":
        return False
    return data.packs(job.data.max_length, bool(job.data.packing)) * job.training.num_train_epochs < ranks * FEW_STEPS


def _node_counts(job: JobFile, machine: Machine) -> list[int]:
    if job.resources.nodes != "auto" or (job.cluster.profile == "local" and not machine.is_imagined):
        return []
    most = job.resources.max_nodes
    return sorted({nodes for nodes in NODE_COUNTS if nodes < most} | {most})
