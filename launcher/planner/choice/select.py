"""How many ranks, which engine, which micro-batch, with or without checkpointing: enumerate, keep what fits, choose.

The planner takes the model's shape, what the job file and the machine settle, and a limit of memory per rank. It looks
at every combination that the job file leaves open and that divides the step exactly, and gives back the one that
serves the objective best, together with the others, each with the reason why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.planner.choice.search import Question, best_of, preferred, rounded, search
from launcher.planner.choice.suggestions import nothing_fits
from launcher.planner.forecast import host_memory_shortage, over_limit, why_unchecked
from launcher.planner.layouts.candidates import RELATIVE_TIMES, Candidate, PlanningContext, time_order
from launcher.planner.settings.defaults import Decision, StepLayout
from launcher.planner.settings.num_steps import steps_of
from rundir.quantities import count, gib

ENGINE_REASONS = {
    "cpu": "everything fits on every rank, and one all-reduce a step is the least that Gloo can carry",
    "single": "one rank has nothing to shard",
    "full": "optimizer state is sharded, and no weights travel in the forward pass",
    "lora": "adapters are small enough to repeat on every rank",
}


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A candidate that was not taken, and why."""

    candidate: Candidate
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The rejected plan as it stands in plan.json."""
        return {**self.candidate.as_json(), "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The plan that was taken, those that were not, and the reasons."""

    candidate: Candidate
    rejected: list[Rejected]
    decisions: list[Decision]
    limit_bytes: int

    @property
    def step_layout(self) -> StepLayout:
        """Ranks and step of the plan that was taken."""
        return self.candidate.step_layout


def choose(job: JobFile, step_layouts: list[StepLayout], context: PlanningContext) -> Choice:
    """The layout that serves the job's objective best among those that fit.

    Args:
        job: The job file.
        step_layouts: Every number of ranks that may be taken, with what is settled.
        context: The machine, its GPU, and the model's shape.

    Raises:
        SettingError: a setting contradicts the step or the model.
        JobError: nothing fits, or nothing keeps deadline and budget; the message names what would.
    """
    ranked = search(Question(job=job, step_layouts=step_layouts, context=context))
    every, fitting, limit = ranked.candidates, ranked.fitting, ranked.limit_bytes
    if not fitting:
        raise nothing_fits(ranked, context)
    hosted = [candidate for candidate in fitting if not _host_memory_shortage(context, candidate)]
    if not hosted:
        raise JobError(
            f"no plan fits the nodes: the leanest {_host_memory_shortage(context, fitting[0])}",
            "Ask for fewer GPUs on each node (resources.gpus_per_node), or for nodes with more memory.",
        )
    allowed = [candidate for candidate in hosted if not over_limit(job, candidate)]
    if not allowed:
        raise _over_limits(job, fitting)
    best = preferred(job, allowed)
    return Choice(
        candidate=best,
        rejected=_rejections(job, every, best, limit, context),
        decisions=_decisions(job, best, every, fitting, len({id(candidate.step_layout) for candidate in every})),
        limit_bytes=limit,
    )


def _over_limits(job: JobFile, fitting: list[Candidate]) -> JobError:
    quickest, cheapest = best_of(fitting, "time"), min(fitting, key=lambda c: c.gpu_time)
    return JobError(
        f"no plan that fits keeps the limits: the quickest ({quickest.label}, {_ranks(quickest)}) "
        f"{over_limit(job, quickest) or 'keeps them alone'}; the cheapest ({cheapest.label}, "
        f"{_ranks(cheapest)}) {over_limit(job, cheapest) or 'keeps them alone'}",
        "Raise resources.deadline_hours or resources.budget, raise resources.max_nodes, or train fewer steps.",
    )


def _host_memory_shortage(context: PlanningContext, candidate: Candidate) -> str:
    return host_memory_shortage(candidate, context.host_bytes) if context.host_bytes else ""


def _rejections(
    job: JobFile, every: list[Candidate], best: Candidate, limit: int, context: PlanningContext
) -> list[Rejected]:
    """All other candidates on the same ranks, and the best of each engine on other numbers of ranks."""
    same = sorted(
        (c for c in every if c.step_layout is best.step_layout and c is not best), key=lambda c: _worth(c, limit)
    )
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for other in every:
        if other.step_layout is not best.step_layout:
            groups.setdefault((other.step_layout.world_size, other.layout.engine), []).append(other)
    firsts = [min(group, key=lambda candidate: _worth(candidate, limit)) for group in groups.values()]
    elsewhere = sorted(firsts, key=lambda c: (c.peak_bytes > limit, rounded(c.gpu_time)))
    return [_reject(job, other, best, limit, context) for other in (*same, *elsewhere)]


def _worth(candidate: Candidate, limit: int) -> tuple[bool, float, float]:
    """Sort key: what fits before what does not, by time, then by memory."""
    if candidate.peak_bytes > limit:
        return True, candidate.peak_bytes, candidate.relative_time
    return False, *_rank(candidate)


def _rank(candidate: Candidate) -> tuple[float, int]:
    return rounded(candidate.relative_time), candidate.peak_bytes


def _reject(
    job: JobFile, candidate: Candidate, best: Candidate, limit_bytes: int, context: PlanningContext
) -> Rejected:
    peak, over = candidate.peak_bytes, _host_memory_shortage(context, candidate) or over_limit(job, candidate)
    if candidate.prediction and peak > limit_bytes:
        phase = candidate.prediction.binding_phase
        reason = f"does not fit: {gib(peak)} in {phase}, {gib(limit_bytes)} usable"
        corrections = candidate.corrections
        if corrections and corrections.prediction.peak_bytes <= limit_bytes and corrections.memory_correction.runs:
            reason += f" after {corrections.memory_correction.in_words()}"
    elif over:
        reason = f"fits, but {over}"
    elif candidate.step_layout.world_size != best.step_layout.world_size:
        time, cost = candidate.relative_time / best.relative_time, 100 * (candidate.gpu_time / best.gpu_time - 1)
        paid = f", at {cost:+.0f} % GPU-hours" if candidate.step_layout.device == "cuda" else ""
        reason = f"fits on {_ranks(candidate)} in {time:.2f} of the time{paid}"
    elif _rank(candidate)[0] > _rank(best)[0]:
        reason = f"fits, but takes about {100 * (candidate.relative_time / best.relative_time - 1):.1f} % longer"
    else:
        reason = f"fits and is as quick, but needs more memory: {gib(peak)}"
    return Rejected(candidate=candidate, reason=reason)


def _ranks(candidate: Candidate) -> str:
    """The number of GPUs, or of ranks on the CPU."""
    return count(candidate.step_layout.world_size, "GPU" if candidate.step_layout.device == "cuda" else "rank")


def _decisions(
    job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate], num_layouts: int
) -> list[Decision]:
    same = [candidate for candidate in fitting if candidate.step_layout is best.step_layout]
    found = list(_rank_decisions(job, best, fitting)) if num_layouts > 1 else []
    found += _open_decisions(job, best, [c for c in every if c.step_layout is best.step_layout], same)
    accumulation = Decision(
        setting="execution.accumulation",
        value=best.layout.accumulation,
        reason=f"{best.step_layout.packs_per_rank} packs of a rank / {best.layout.micro_batch} packs in a forward pass",
    )
    return [*found, accumulation, *why_unchecked(job, best)]


OBJECTIVES = {
    "cost": "the fewest GPU-hours, within 5 %, on as few GPUs as possible",
    "time": "the quickest",
    "gpus": "the fewest GPUs that fit",
}


def _rank_decisions(job: JobFile, best: Candidate, fitting: list[Candidate]) -> Iterator[Decision]:
    sizes = sorted({candidate.step_layout.world_size for candidate in fitting})
    fit = f"{', '.join(map(str, sizes[:6]))}{' ...' if len(sizes) > 6 else ''} GPUs fit"
    reason = f"{OBJECTIVES[job.resources.objective]}; {fit}"
    cpu = best.step_layout.device == "cpu"
    if job.resources.nodes == "auto" and not cpu and len({c.step_layout.nodes for c in fitting}) > 1:
        yield Decision(setting="resources.nodes", value=best.step_layout.nodes, reason=reason)
    ranks = "resources.cpu_ranks" if cpu else "resources.gpus_per_node"
    if all(decision.setting != ranks for decision in best.step_layout.decisions):
        reason = reason if job.resources.objective == "gpus" and not cpu else _few_ranks(job, best, fitting)
        yield Decision(setting=ranks, value=best.step_layout.ranks_per_node, reason=reason)


def _few_ranks(job: JobFile, best: Candidate, fitting: list[Candidate]) -> str:
    """Why ranks are left out: they would leave the run too few steps."""
    most = max(fitting, key=lambda candidate: candidate.step_layout.ranks_per_node)
    steps, more = (steps_of(job, candidate.step_layout).per_epoch for candidate in (best, most))
    ranks, all_ranks = best.step_layout.world_size, most.step_layout.world_size
    return f"the data is little: {more} steps an epoch on {all_ranks}, {steps} on {ranks}"


def _open_decisions(
    job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate]
) -> Iterator[Decision]:
    if job.resources.engine == "auto":
        yield Decision(
            setting="resources.engine", value=best.layout.engine, reason=_engine_reason(job, best, every, fitting)
        )
    if job.resources.micro_batch == "auto":
        yield Decision(
            setting="resources.micro_batch", value=best.layout.micro_batch, reason=_micro_batch_reason(best, fitting)
        )
    if job.training.gradient_checkpointing == "auto":
        reason = _checkpointing_reason(best, fitting)
        yield Decision(setting="training.gradient_checkpointing", value=best.checkpointing, reason=reason)
    if job.resources.shard_quantized == "auto" and len({candidate.layout.shard_quantized for candidate in every}) > 1:
        yield Decision(
            setting="resources.shard_quantized",
            value=best.layout.shard_quantized,
            reason=_sharding_reason(best, fitting),
        )


def _engine_reason(job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate]) -> str:
    order = time_order(job, best.step_layout)
    preferred = min(RELATIVE_TIMES[order], key=lambda engine: RELATIVE_TIMES[order][engine])
    reason = ENGINE_REASONS[order] if best.layout.engine == preferred else "the quickest engine that fits"
    others = [candidate for candidate in fitting if candidate.layout.engine != best.layout.engine]
    if not others:
        return f"the only engine that fits, of {len({candidate.layout.engine for candidate in every})}"
    second = min(others, key=_rank)
    slower = 100 * (second.relative_time / best.relative_time - 1)
    return f"{reason}; next is {second.layout.engine}, {f'{slower:.1f} % slower' if slower >= 0.1 else 'as quick'}"


def _micro_batch_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if best.prediction is None:
        return "the model's shape is not known here, so the smallest"
    largest = max(candidate.layout.micro_batch for candidate in fitting)
    if best.layout.micro_batch == largest:
        return "the largest that fits and divides the step: fewer, fuller forward passes"
    return f"fills a forward pass; up to {largest} would fit and gain nothing"


def _sharding_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if not best.layout.shard_quantized:
        return "packed weights fit whole on every rank, and need not be gathered"
    if any(not candidate.layout.shard_quantized for candidate in fitting):
        return "room for larger micro-batches or no checkpointing outweighs gathering packed weights"
    return "packed weights do not fit whole beside the rest: each rank holds its part and gathers layer by layer"


def _checkpointing_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if best.prediction is None:
        return "the model's shape is not known here, so the safe side"
    if not best.checkpointing:
        return "everything fits without, and it would cost a second forward pass"
    if any(not candidate.checkpointing for candidate in fitting):
        return "room for larger micro-batches or a quicker engine outweighs the second forward pass"
    return "activations do not fit otherwise; costs a second forward pass"
