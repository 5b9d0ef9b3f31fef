"""The search behind every plan: all layouts that a job leaves open, with memory and time, and those that fit.

`plan`, `estimate`, `--compare`, what would fit, and what to change after running out of memory all ask it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.planner.layouts.candidates import (
    Candidate,
    PlanningContext,
    divisors,
    every_candidate,
    memory_limit_bytes,
    unsupported,
)
from launcher.planner.settings.defaults import StepLayout
from launcher.planner.settings.num_steps import steps_of
from launcher.sizing.shape import refused_adapters, targeted
from launcher.yamlfile.problems import SettingError
from trainer.schedule_rules import FEW_STEPS

AS_CHEAP = 1.05
"""Up to this share above the cheapest a plan counts as as cheap, and fewer GPUs or less time decide: the speed model is
not better than that."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to search.

    Attributes:
        job: What is asked for; what it leaves at `auto` is searched.
        step_layouts: Every number of ranks that may be taken, with what is settled for it.
        context: The machine, its GPU, the model's shape, the data.
        with_speed: Whether layouts are timed too; without, they are ranked by a first order.
    """

    job: JobFile
    step_layouts: list[StepLayout]
    context: PlanningContext
    with_speed: bool = True


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a search found.

    Attributes:
        job: The job that was asked about.
        candidates: Every layout, whether it fits or not.
        limit_bytes: Memory that one rank may take.
    """

    job: JobFile
    candidates: list[Candidate]
    limit_bytes: int

    @cached_property
    def fitting(self) -> list[Candidate]:
        """The layouts that fit."""
        return [candidate for candidate in self.candidates if candidate.peak_bytes <= self.limit_bytes]

    @property
    def leanest(self) -> Candidate:
        """The layout that needs least memory."""
        return min(self.candidates, key=lambda candidate: candidate.peak_bytes)

    @property
    def best(self) -> Candidate:
        """The layout that serves the job best of those that fit; the leanest where none does."""
        return preferred(self.job, self.fitting) if self.fitting else self.leanest


def search(question: Question) -> Ranked:
    """Predicts memory and time of every layout that a job leaves open.

    Raises:
        SettingError: a setting contradicts the step or the model.
    """
    job, context = question.job, question.context
    _check_targets(job, context)
    usable = _allowed_step_layouts(job, question.step_layouts if context.shape else _one_node(question.step_layouts))
    every = [
        candidate
        for step_layout in usable
        for candidate in every_candidate(job, step_layout, context, with_speed=question.with_speed)
    ]
    limit = min(memory_limit_bytes(step_layout, context) for step_layout in usable)
    return Ranked(job=job, candidates=every, limit_bytes=limit)


def preferred(job: JobFile, candidates: list[Candidate]) -> Candidate:
    """The candidate that serves the job best: enough steps first, then its objective."""
    return best_of(_with_enough_steps(job, candidates), job.resources.objective)


def best_of(candidates: list[Candidate], objective: str) -> Candidate:
    """The candidate that serves an objective best; what is nearly as cheap is as cheap."""
    if objective == "time":
        return min(candidates, key=lambda c: (rounded(c.relative_time), c.layout.ranks, c.peak_bytes))
    by_ranks: Callable[[Candidate], tuple[float, ...]] = lambda c: (  # noqa: E731
        c.layout.ranks,
        rounded(c.relative_time),
        c.peak_bytes,
    )
    if objective == "gpus":
        return min(candidates, key=by_ranks)
    cheapest = min(candidate.gpu_time for candidate in candidates)
    return min((c for c in candidates if c.gpu_time <= AS_CHEAP * cheapest), key=by_ranks)


def rounded(time: float) -> float:
    """A time to three digits, beyond which predictions mean nothing."""
    return float(f"{time:.3g}")


def _with_enough_steps(job: JobFile, candidates: list[Candidate]) -> list[Candidate]:
    """Those that leave a run `FEW_STEPS` steps; where there is too little data, those with the most steps.

    Part of a node is taken only where a whole one leaves too few, and then as much of it as leaves enough.
    """
    steps = [_steps(job, candidate) for candidate in candidates]
    most = max(steps)
    enough = [c for c, number in zip(candidates, steps, strict=True) if number >= min(FEW_STEPS, most)]
    if job.resources.objective == "gpus" or job.training.tokens_per_step != "auto" or most < FEW_STEPS:
        return enough
    ranks = max(candidate.step_layout.ranks_per_node for candidate in enough)
    return [candidate for candidate in enough if candidate.step_layout.ranks_per_node == ranks]


def _steps(job: JobFile, candidate: Candidate) -> float:
    """Steps of a run by its data, whatever `max_steps` says: a step larger than an epoch leaves ranks idle."""
    per_epoch = steps_of(job, candidate.step_layout).per_epoch
    return per_epoch * job.training.num_train_epochs if per_epoch else FEW_STEPS


def _one_node(step_layouts: list[StepLayout]) -> list[StepLayout]:
    """One whole node, or the fewest nodes asked for: without a shape, what fits on less is unknown."""
    fewest = min(each.nodes for each in step_layouts)
    return [max((each for each in step_layouts if each.nodes == fewest), key=lambda each: each.world_size)]


def _allowed_step_layouts(job: JobFile, step_layouts: list[StepLayout]) -> list[StepLayout]:
    """The step layouts that the asked micro-batch and engine allow.

    Raises:
        SettingError: none.
    """
    found, problem = [], None
    for each in step_layouts:
        try:
            _check_micro_batch(job, each)
            _check_engine(job, each)
            found.append(each)
        except SettingError as error:
            problem = problem or error
    if problem and not found:
        raise problem
    return found


def _check_micro_batch(job: JobFile, step_layout: StepLayout) -> None:
    asked = job.resources.micro_batch
    if asked == "auto" or step_layout.packs_per_rank % asked == 0:
        return
    near = sorted(sorted(divisors(step_layout.packs_per_rank), key=lambda d: abs(d - asked))[:2])
    raise SettingError(
        "resources.micro_batch",
        f"must divide the {step_layout.packs_per_rank} packs that each rank has in a step",
        got=asked,
        remedy=f"Nearest: {' or '.join(map(str, near))}.",
    )


def _check_targets(job: JobFile, context: PlanningContext) -> None:
    if job.method.kind != "lora" or context.shape is None:
        return
    method = job.method
    try:
        chosen = targeted(context.shape, method.target_modules)
    except JobError as error:
        raise SettingError("method.target_modules", error.message, remedy=error.remedy) from None
    if refused := refused_adapters(context.shape, chosen, dropout=method.lora_dropout > 0, dora=method.use_dora):
        setting, message, remedy = refused
        raise SettingError(f"method.{setting}", message, remedy=remedy)


def _check_engine(job: JobFile, step_layout: StepLayout) -> None:
    if job.resources.shard_quantized is True and (job.method.quantization is None or job.method.use_dora):
        raise SettingError(
            "resources.shard_quantized",
            "needs quantised weights, and DoRA reads them whole",
            got=True,
            remedy="Set method.quantization without use_dora, or leave it at auto.",
        )
    if job.resources.engine in unsupported(job, step_layout):
        raise SettingError(
            "resources.engine",
            "cannot train all weights in bfloat16: DeepSpeed keeps float32 master weights from stage 1 on only",
            got=job.resources.engine,
            remedy="Use zero1, which is the same on one GPU, or `model.dtype: float32`.",
        )
