"""Every `auto` of a job file that does not depend on memory, decided with its reason.

The engine, the micro-batch and checkpointing depend on what fits; `launcher.planner.choice.select` decides those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from launcher.advice import rules
from launcher.dataset.size import DatasetSize, unknown_size
from launcher.errors import MachineError
from launcher.jobfile.schema import JobFile
from launcher.model.config import config_of
from launcher.site.hardware import Machine
from launcher.sizing.shape import ModelShape
from launcher.yamlfile.problems import SettingError
from rundir.quantities import count
from trainer.capabilities import (
    OWN,
    Device,
    attention_dropout,
    reason_of,
    refusal,
    usable,
    why_not,
)
from trainer.schedule_rules import FEW_STEPS

MOST_CPU_RANKS = 2
MOST_TOKENIZER_PROCESSES = 16
USUAL_PARAMETERS = 7_000_000_000
"""Taken for the learning rate where the model's size is not known."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One setting that the plan decided or derived."""

    setting: str
    value: Any
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The decision as it stands in plan.json."""
        return {"setting": self.setting, "value": self.value, "reason": self.reason}


@dataclass(kw_only=True)
class StepLayout:
    """What is decided before memory is predicted: device, ranks, step size, learning rate, and the reasons."""

    device: str
    dtype: str
    attention: str
    world_size: int
    nodes: int = 1
    packs_per_step: int
    learning_rate: float
    decisions: list[Decision] = field(default_factory=list)
    data: DatasetSize = field(default_factory=unknown_size)

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.world_size // self.nodes

    @property
    def packs_per_rank(self) -> int:
        """Packs of one rank in one step."""
        return self.packs_per_step // self.world_size


def decide_step_layout(
    job: JobFile, machine: Machine, *, shape: ModelShape | None = None, data: DatasetSize | None = None
) -> StepLayout:
    """Decides device, compute type, attention, ranks, step size and learning rate.

    Args:
        job: The job file.
        machine: One node.
        shape: The model's shape; `None` where it is not known.
        data: How much data there is; `None` where nobody has looked.

    Raises:
        SettingError: what is asked for contradicts itself.
        MachineError: this machine does not have it.
    """
    log: list[Decision] = []
    device = _device(job, machine, log)
    dtype = _dtype(job, device, machine, log)
    attention = _attention(job, device, dtype, machine, log)
    nodes = _nodes(job, machine)
    world_size = nodes * _ranks_per_node(job, device, machine, nodes, log)
    data = data or unknown_size()
    packs_per_step = _packs_per_step(job, device, world_size, data, log)
    learning_rate = _learning_rate(job, shape, log)
    return StepLayout(
        device=device,
        dtype=dtype,
        attention=attention,
        world_size=world_size,
        nodes=nodes,
        packs_per_step=packs_per_step,
        learning_rate=learning_rate,
        decisions=log,
        data=data,
    )


def _device(job: JobFile, machine: Machine, log: list[Decision]) -> str:
    wanted = job.resources.gpu
    if wanted == "none":
        return "cpu"
    if wanted == "auto":
        device = "cuda" if machine.num_gpus else "cpu"
        found = f"{machine.num_gpus} x {machine.gpu_names[0]}" if machine.num_gpus else "no GPU on this machine"
        log.append(Decision(setting="resources.gpu", value=device, reason=found))
        return device
    model = wanted.lower().split("-")[0]
    if not any(model in re.findall(r"[a-z]*\d+[a-z]*", name.lower()) for name in machine.gpu_names):
        has = ", ".join(sorted(set(machine.gpu_names))) or "no GPU"
        raise MachineError(
            f"resources.gpu asks for {wanted!r}; this machine has {has}",
            "Set `gpu: auto` to take what is there, or `gpu: none` for the CPU.",
        )
    return "cuda"


def _dtype(job: JobFile, device: str, machine: Machine, log: list[Decision]) -> str:
    asked, lacks = job.model.dtype, machine.lacks_bfloat16 if device == "cuda" else ""
    if asked == "bfloat16" and lacks:
        raise SettingError(
            "model.dtype", f"{lacks} has no bfloat16 units", got=asked, remedy="Write float32, or auto, which takes it."
        )
    if asked != "auto":
        return asked
    if device == "cpu":
        dtype, reason = "float32", "exact, and CPUs are hardly faster in bfloat16"
    elif lacks:
        dtype, reason = "float32", f"{lacks} has no bfloat16 units, and Tuneyard does not train in float16"
    else:
        dtype, reason = "bfloat16", "matrix units run bfloat16 at full speed"
    log.append(Decision(setting="model.dtype", value=dtype, reason=reason))
    return dtype


def _attention(job: JobFile, device: str, dtype: str, machine: Machine, log: list[Decision]) -> str:
    """The attention backend, `own` where conversations of this model cannot share a row.

    Raises:
        SettingError: the model cannot be trained, or not with the backend that is asked for.
    """
    config, length, asked = config_of(job.model), job.data.max_length, job.model.attention
    if refused := refusal(config):
        raise SettingError("model.path", refused.message, remedy=refused.remedy)
    place = Device(
        kind=device, dtype=dtype, has_flash=machine.has_flash_attention, has_bfloat16=not machine.lacks_bfloat16
    )
    can = usable(config, place, length)
    if asked != "auto" and asked not in can:
        raise SettingError(
            "model.attention",
            why_not(config, asked, place, length),
            got=asked,
            remedy=f"It can use {', '.join(can)} there; auto takes {can[0]}.",
        )
    value = can[0] if asked == "auto" else asked
    if asked == "auto":
        reason = reason_of(config, value, place, length)
        log.append(Decision(setting="model.attention", value=value, reason=reason))
    dropout = attention_dropout(config)
    if dropout and value != OWN:
        reason = f"the configuration declares {dropout:g}; attention over packed rows has none: it is not applied"
        log.append(Decision(setting="attention_dropout", value=0.0, reason=reason))
    return value


def _nodes(job: JobFile, machine: Machine) -> int:
    nodes = job.resources.nodes
    if nodes not in ("auto", 1) and job.cluster.profile == "local" and not machine.is_imagined:
        raise SettingError(
            "resources.nodes", "the local profile has one machine", got=nodes, remedy="Write 1, or auto."
        )
    return 1 if nodes == "auto" else nodes


def _ranks_per_node(job: JobFile, device: str, machine: Machine, nodes: int, log: list[Decision]) -> int:
    resources = job.resources
    if device == "cuda":
        return _gpu_ranks(job, machine, nodes, log)
    if resources.cpu_ranks != "auto":
        return resources.cpu_ranks
    most = min(MOST_CPU_RANKS, machine.num_cores)
    ranks = _largest_dividing(job, most, nodes)
    log.append(Decision(setting="resources.cpu_ranks", value=ranks, reason=_rank_reason(ranks, most, "cores")))
    return ranks


def _gpu_ranks(job: JobFile, machine: Machine, nodes: int, log: list[Decision]) -> int:
    wanted = job.resources.gpus_per_node
    if wanted == "auto":
        ranks = _largest_dividing(job, machine.num_gpus, nodes)
        reason = _rank_reason(ranks, machine.num_gpus, "GPUs")
        log.append(Decision(setting="resources.gpus_per_node", value=ranks, reason=reason))
        return ranks
    if wanted > machine.num_gpus:
        raise MachineError(
            f"resources.gpus_per_node asks for {wanted}; this machine has {machine.num_gpus}",
            "Ask for fewer, or write auto.",
        )
    return wanted


def _largest_dividing(job: JobFile, most: int, nodes: int) -> int:
    """The most ranks of a node that divide the asked step exactly."""
    tokens = job.training.tokens_per_step
    if tokens == "auto" or tokens % job.data.max_length:
        return most
    packs = tokens // job.data.max_length
    return next((ranks for ranks in range(most, 0, -1) if packs % (nodes * ranks) == 0), most)


def _rank_reason(ranks: int, most: int, what: str) -> str:
    if ranks == most:
        return f"one rank on each of the {most} {what} used here"
    return f"at most {most} of the {what} here; this is the most that divides a step exactly"


def _packs_per_step(job: JobFile, device: str, world_size: int, data: DatasetSize, log: list[Decision]) -> int:
    length, tokens = job.data.max_length, job.training.tokens_per_step
    unit = world_size * length
    if tokens == "auto":
        wanted, why = _step_tokens(job, device, data)
        each = _halved_for_few_steps(job, world_size, rules.power_of_two_near(wanted / unit), data)
        tokens = unit * each
        reason = f"{why}; {count(world_size, 'rank')} x packs of {length} tokens x a power of two"
        log.append(Decision(setting="training.tokens_per_step", value=tokens, reason=reason))
    elif tokens % unit:
        below, above = tokens // unit * unit, (tokens // unit + 1) * unit
        raise SettingError(
            "training.tokens_per_step",
            f"must be a multiple of ranks x max_length = {world_size} x {length} = {unit}",
            got=tokens,
            remedy=f"Nearest: {f'{below} or {above}' if below else f'{above} or {2 * unit}'}.",
        )
    packs = tokens // length
    reason = f"{tokens} tokens in a step / {length} tokens in a pack"
    log.append(Decision(setting="execution.packs_per_step", value=packs, reason=reason))
    return packs


def _halved_for_few_steps(job: JobFile, world_size: int, each: int, data: DatasetSize) -> int:
    """Packs of a rank in a step, halved while the run would have fewer than `FEW_STEPS` steps."""
    packs = data.packs(job.data.max_length, bool(job.data.packing)) * job.training.num_train_epochs
    while each > 1 and packs / (world_size * each) < FEW_STEPS and data.is_known:
        each //= 2
    return each


def _step_tokens(job: JobFile, device: str, data: DatasetSize) -> tuple[float, str]:
    """Tokens that a step should have, and why."""
    if not data.is_known:
        most = rules.MOST_STEP_TOKENS[device]
        return most, f"near {most:,}, since how much data there is is not known here"
    wanted = rules.step_tokens(data.rows, data.tokens, job.training.num_train_epochs, device)
    batch = rules.batch_rows(data.rows, job.training.num_train_epochs)
    rows = wanted / data.mean
    if rows < batch:
        why = f"about {count(rows, 'row')}: {rules.MOST_STEP_TOKENS[device]:,} tokens are the largest step"
    else:
        why = f"about {count(batch, 'row')}: {rules.batch_reason(data.rows, job.training.num_train_epochs)}"
    return (wanted if job.data.packing else batch * job.data.max_length), why


def _learning_rate(job: JobFile, shape: ModelShape | None, log: list[Decision]) -> float:
    asked = job.training.learning_rate
    if asked != "auto":
        return asked
    rule = rules.learning_rate(job.method.kind, shape.num_parameters if shape else USUAL_PARAMETERS)
    size = f"{shape.num_parameters:,} parameters" if shape else "its size is not known here, as for 7B"
    adapters = "adapters" if job.method.kind == "lora" else "all weights"
    reason = f"{adapters}, {size}: {rule.reason} ({rule.source})"
    log.append(Decision(setting="training.learning_rate", value=rule.value, reason=reason))
    return float(rule.value)
