"""How many ranks, which engine, which micro-batch, with or without checkpointing: enumerate, keep what fits, choose.

The planner takes the model's shape, what the job file and the machine settle, and a limit of memory per rank. It looks
at every combination that the job file leaves open and that divides the step exactly, and gives back the one that
serves the objective best, together with the others, each with the reason why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.planner.candidates import (
    RELATIVE_TIMES,
    Candidate,
    Ground,
    divisors,
    every_candidate,
    memory_limit_bytes,
    unsupported,
)
from launcher.planner.candidates import situation as situation_of
from launcher.planner.defaults import Basics, Decision
from launcher.planner.forecast import over_limit, starved, why_unchecked
from launcher.planner.num_steps import steps_of
from launcher.planner.suggestions import nothing_fits
from launcher.sizing.shape import refused_adapters, targeted
from launcher.yamlfile.problems import SettingError
from rundir.quantities import count, gib
from trainer.schedule_rules import FEW_STEPS

AS_CHEAP = 1.05
"""Up to this share above the cheapest a plan counts as as cheap, and fewer GPUs or less time decide: the speed model is
not better than that."""

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
    def basics(self) -> Basics:
        """Ranks and step of the plan that was taken."""
        return self.candidate.basics


def choose(job: JobFile, basics: list[Basics], ground: Ground) -> Choice:
    """The layout that serves the job's objective best among those that fit.

    Args:
        job: The job file.
        basics: Every number of ranks that may be taken, with what is settled.
        ground: The machine, its GPU, and the model's shape.

    Raises:
        SettingError: a setting contradicts the step or the model.
        JobError: nothing fits, or nothing keeps deadline and budget; the message names what would.
    """
    every, fitting, limit = laid_out(job, basics, ground)
    if not fitting:
        raise nothing_fits(job, every, ground, limit)
    hosted = [candidate for candidate in fitting if not _starved(ground, candidate)]
    if not hosted:
        raise JobError(
            f"no plan fits the nodes: the leanest {_starved(ground, fitting[0])}",
            "Ask for fewer GPUs on each node (resources.gpus_per_node), or for nodes with more memory.",
        )
    allowed = [candidate for candidate in hosted if not over_limit(job, candidate)]
    if not allowed:
        raise _over_limits(job, fitting)
    best = preferred(job, allowed)
    return Choice(
        candidate=best,
        rejected=_rejections(job, every, best, limit, ground),
        decisions=_decisions(job, best, every, fitting, len({id(candidate.basics) for candidate in every})),
        limit_bytes=limit,
    )


def laid_out(job: JobFile, basics: list[Basics], ground: Ground) -> tuple[list[Candidate], list[Candidate], int]:
    """Every layout that a job leaves open, those that fit, and the memory that one rank may take.

    Raises:
        SettingError: a setting contradicts the step or the model.
    """
    _check_targets(job, ground)
    usable = _consistent(job, basics if ground.shape else _safe_side(basics))
    limit = min(memory_limit_bytes(each, ground) for each in usable)
    every = [candidate for each in usable for candidate in every_candidate(job, each, ground)]
    return every, [candidate for candidate in every if candidate.peak_bytes <= limit], limit


def preferred(job: JobFile, candidates: list[Candidate]) -> Candidate:
    """The candidate that serves the job best: enough steps first, then its objective."""
    return best_of(_with_enough_steps(job, candidates), job.resources.objective)


def _safe_side(basics: list[Basics]) -> list[Basics]:
    """One whole node, or as few as are asked for: without a shape nobody knows what fits on less."""
    fewest = min(each.nodes for each in basics)
    return [max((each for each in basics if each.nodes == fewest), key=lambda each: each.world_size)]


def best_of(candidates: list[Candidate], objective: str) -> Candidate:
    """The candidate that serves an objective best; what is nearly as cheap is as cheap."""
    if objective == "time":
        return min(candidates, key=lambda c: (_rounded(c.relative_time), c.basics.world_size, c.peak_bytes))
    by_ranks: Callable[[Candidate], tuple[float, ...]] = lambda c: (  # noqa: E731
        c.basics.world_size,
        _rounded(c.relative_time),
        c.peak_bytes,
    )
    if objective == "gpus":
        return min(candidates, key=by_ranks)
    cheapest = min(candidate.gpu_time for candidate in candidates)
    return min((c for c in candidates if c.gpu_time <= AS_CHEAP * cheapest), key=by_ranks)


def _with_enough_steps(job: JobFile, candidates: list[Candidate]) -> list[Candidate]:
    """Those that leave a run some 100 steps; where the data is too little for that, those with the most.

    Part of a node is taken only where a whole one leaves too few, and then as much of it as leaves enough.
    """
    steps = [_steps(job, candidate) for candidate in candidates]
    most = max(steps)
    enough = [c for c, number in zip(candidates, steps, strict=True) if number >= min(FEW_STEPS, most)]
    if job.resources.objective == "gpus" or job.training.tokens_per_step != "auto" or most < FEW_STEPS:
        return enough
    ranks = max(candidate.basics.ranks_per_node for candidate in enough)
    return [candidate for candidate in enough if candidate.basics.ranks_per_node == ranks]


def _steps(job: JobFile, candidate: Candidate) -> float:
    """Steps of a run by its data, however many are asked for: a step beyond an epoch leaves ranks without work."""
    per_epoch = steps_of(job, candidate.basics).per_epoch
    return per_epoch * job.training.num_train_epochs if per_epoch else FEW_STEPS


def _rounded(time: float) -> float:
    """Three digits: more are not known."""
    return float(f"{time:.3g}")


def _consistent(job: JobFile, basics: list[Basics]) -> list[Basics]:
    """Those numbers of ranks over which the asked micro-batch and engine go.

    Raises:
        SettingError: none.
    """
    found, problem = [], None
    for each in basics:
        try:
            _check_micro_batch(job, each)
            _check_engine(job, each)
            found.append(each)
        except SettingError as error:
            problem = problem or error
    if problem and not found:
        raise problem
    return found


def _check_micro_batch(job: JobFile, basics: Basics) -> None:
    asked = job.resources.micro_batch
    if asked == "auto" or basics.packs_per_rank % asked == 0:
        return
    near = sorted(sorted(divisors(basics.packs_per_rank), key=lambda d: abs(d - asked))[:2])
    raise SettingError(
        "resources.micro_batch",
        f"must divide the {count(basics.packs_per_rank, 'pack')} that each rank has in a step",
        got=asked,
        remedy=f"Nearest: {' or '.join(map(str, near))}.",
    )


def _check_targets(job: JobFile, ground: Ground) -> None:
    if job.method.kind != "lora" or ground.shape is None:
        return
    method = job.method
    try:
        chosen = targeted(ground.shape, method.target_modules)
    except JobError as error:
        raise SettingError("method.target_modules", error.message, remedy=error.remedy) from None
    if refused := refused_adapters(ground.shape, chosen, dropout=method.lora_dropout > 0, dora=method.use_dora):
        setting, message, remedy = refused
        raise SettingError(f"method.{setting}", message, remedy=remedy)


def _check_engine(job: JobFile, basics: Basics) -> None:
    if job.resources.shard_quantized is True and (job.method.quantization is None or job.method.use_dora):
        raise SettingError(
            "resources.shard_quantized",
            "needs quantised weights, and DoRA reads them whole",
            got=True,
            remedy="Set method.quantization without use_dora, or leave it at auto.",
        )
    if job.resources.engine in unsupported(job, basics):
        raise SettingError(
            "resources.engine",
            "cannot train all weights in bfloat16: DeepSpeed keeps float32 master weights from stage 1 on only",
            got=job.resources.engine,
            remedy="Use zero1, which is the same on one GPU, or `model.dtype: float32`.",
        )


def _over_limits(job: JobFile, fitting: list[Candidate]) -> JobError:
    quickest, cheapest = best_of(fitting, "time"), min(fitting, key=lambda c: c.gpu_time)
    return JobError(
        f"no plan that fits keeps the limits: the quickest ({quickest.label}, {_ranks(quickest)}) "
        f"{over_limit(job, quickest) or 'keeps them alone'}; the cheapest ({cheapest.label}, "
        f"{_ranks(cheapest)}) {over_limit(job, cheapest) or 'keeps them alone'}",
        "Raise resources.deadline_hours or resources.budget, raise resources.max_nodes, or train fewer steps.",
    )


def _starved(ground: Ground, candidate: Candidate) -> str:
    return starved(candidate, ground.host_bytes) if ground.host_bytes else ""


def _rejections(job: JobFile, every: list[Candidate], best: Candidate, limit: int, ground: Ground) -> list[Rejected]:
    """All others over the same ranks, and of other numbers of ranks the best of each engine."""
    same = sorted((c for c in every if c.basics is best.basics and c is not best), key=lambda c: _worth(c, limit))
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for other in every:
        if other.basics is not best.basics:
            groups.setdefault((other.basics.world_size, other.engine), []).append(other)
    firsts = [_representative(group, limit) for group in groups.values()]
    elsewhere = sorted(firsts, key=lambda c: (c.peak_bytes > limit, _rounded(c.gpu_time)))
    return [_reject(job, other, best, limit, ground) for other in (*same, *elsewhere)]


def _worth(candidate: Candidate, limit: int) -> tuple[bool, float, float]:
    """What fits comes first, the quickest ahead; of what does not fit, what needs least."""
    if candidate.peak_bytes > limit:
        return True, candidate.peak_bytes, candidate.relative_time
    return False, *_rank(candidate)


def _representative(group: list[Candidate], limit: int) -> Candidate:
    return min(group, key=lambda candidate: _worth(candidate, limit))


def _rank(candidate: Candidate) -> tuple[float, int]:
    return _rounded(candidate.relative_time), candidate.peak_bytes


def _reject(job: JobFile, candidate: Candidate, best: Candidate, limit_bytes: int, ground: Ground) -> Rejected:
    peak, over = candidate.peak_bytes, _starved(ground, candidate) or over_limit(job, candidate)
    if candidate.prediction and peak > limit_bytes:
        phase = candidate.prediction.binding_phase
        reason = f"does not fit: {gib(peak)} in {phase}, {gib(limit_bytes)} usable"
        learning = candidate.learning
        if learning and learning.prediction.peak_bytes <= limit_bytes and learning.memory_correction.runs:
            reason += f" after {learning.memory_correction.in_words()}"
    elif over:
        reason = f"fits, but {over}"
    elif candidate.basics.world_size != best.basics.world_size:
        reason = _other_ranks(candidate, best)
    elif _rank(candidate)[0] > _rank(best)[0]:
        reason = f"fits, but takes about {100 * (candidate.relative_time / best.relative_time - 1):.1f} % longer"
    else:
        reason = f"fits and is as quick, but needs more memory: {gib(peak)}"
    return Rejected(candidate=candidate, reason=reason)


def _other_ranks(candidate: Candidate, best: Candidate) -> str:
    time, cost = candidate.relative_time / best.relative_time, 100 * (candidate.gpu_time / best.gpu_time - 1)
    paid = f", at {cost:+.0f} % GPU-hours" if candidate.basics.device == "cuda" else ""
    return f"fits on {_ranks(candidate)} in {time:.2f} of the time{paid}"


def _ranks(candidate: Candidate) -> str:
    """What a plan takes: GPUs, or ranks where there are none."""
    return count(candidate.basics.world_size, "GPU" if candidate.basics.device == "cuda" else "rank")


def _decisions(
    job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate], num_layouts: int
) -> list[Decision]:
    same = [candidate for candidate in fitting if candidate.basics is best.basics]
    found = list(_rank_decisions(job, best, fitting)) if num_layouts > 1 else []
    found += _open_decisions(job, best, [c for c in every if c.basics is best.basics], same)
    accumulation = Decision(
        setting="execution.accumulation",
        value=best.accumulation,
        reason=f"{count(best.basics.packs_per_rank, 'pack')} of a rank / "
        f"{count(best.micro_batch, 'pack')} in a forward pass",
    )
    return [*found, accumulation, *why_unchecked(job, best)]


OBJECTIVES = {
    "cost": "the fewest GPU-hours, within 5 %, on as few GPUs as possible",
    "time": "the quickest",
    "gpus": "the fewest GPUs that fit",
}


def _rank_decisions(job: JobFile, best: Candidate, fitting: list[Candidate]) -> Iterator[Decision]:
    sizes = sorted({candidate.basics.world_size for candidate in fitting})
    fit = f"{', '.join(map(str, sizes[:6]))}{' ...' if len(sizes) > 6 else ''} GPUs fit"
    reason = f"{OBJECTIVES[job.resources.objective]}; {fit}"
    cpu = best.basics.device == "cpu"
    if job.resources.nodes == "auto" and not cpu and len({c.basics.nodes for c in fitting}) > 1:
        yield Decision(setting="resources.nodes", value=best.basics.nodes, reason=reason)
    ranks = "resources.cpu_ranks" if cpu else "resources.gpus_per_node"
    if all(decision.setting != ranks for decision in best.basics.decisions):
        reason = reason if job.resources.objective == "gpus" and not cpu else _few_ranks(job, best, fitting)
        yield Decision(setting=ranks, value=best.basics.ranks_per_node, reason=reason)


def _few_ranks(job: JobFile, best: Candidate, fitting: list[Candidate]) -> str:
    """Why ranks are left out: they would leave the run too few steps."""
    most = max(fitting, key=lambda candidate: candidate.basics.ranks_per_node)
    steps, more = (steps_of(job, candidate.basics).per_epoch for candidate in (best, most))
    ranks, all_ranks = best.basics.world_size, most.basics.world_size
    return f"the data is little: {more} steps an epoch on {all_ranks}, {steps} on {ranks}"


def _open_decisions(
    job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate]
) -> Iterator[Decision]:
    if job.resources.engine == "auto":
        yield Decision(setting="resources.engine", value=best.engine, reason=_engine_reason(job, best, every, fitting))
    if job.resources.micro_batch == "auto":
        yield Decision(
            setting="resources.micro_batch", value=best.micro_batch, reason=_micro_batch_reason(best, fitting)
        )
    if job.training.gradient_checkpointing == "auto":
        reason = _checkpointing_reason(best, fitting)
        yield Decision(setting="training.gradient_checkpointing", value=best.checkpointing, reason=reason)
    if job.resources.shard_quantized == "auto" and len({candidate.shard_quantized for candidate in every}) > 1:
        yield Decision(
            setting="resources.shard_quantized", value=best.shard_quantized, reason=_sharding_reason(best, fitting)
        )


def _engine_reason(job: JobFile, best: Candidate, every: list[Candidate], fitting: list[Candidate]) -> str:
    situation = situation_of(job, best.basics)
    preferred = min(RELATIVE_TIMES[situation], key=lambda engine: RELATIVE_TIMES[situation][engine])
    reason = ENGINE_REASONS[situation] if best.engine == preferred else "the quickest engine that fits"
    others = [candidate for candidate in fitting if candidate.engine != best.engine]
    if not others:
        return f"the only engine that fits, of {len({candidate.engine for candidate in every})}"
    second = min(others, key=_rank)
    slower = 100 * (second.relative_time / best.relative_time - 1)
    return f"{reason}; next is {second.engine}, {f'{slower:.1f} % slower' if slower >= 0.1 else 'as quick'}"


def _micro_batch_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if best.prediction is None:
        return "the model's shape is not known here, so the smallest"
    largest = max(candidate.micro_batch for candidate in fitting)
    if best.micro_batch == largest:
        return "the largest that fits and divides the step: fewer, fuller forward passes"
    return f"fills a forward pass; up to {largest} would fit and gain nothing"


def _sharding_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if not best.shard_quantized:
        return "packed weights fit whole on every rank, and need not be gathered"
    if any(not candidate.shard_quantized for candidate in fitting):
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
