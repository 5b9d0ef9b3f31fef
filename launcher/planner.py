"""Which engine, which micro-batch, with or without checkpointing: enumerate, keep what fits, rank, choose.

The planner takes the model's shape, the basics that the job file and the machine settle, and a limit of
memory per rank. It looks at every combination that the job file leaves open and that divides the step
exactly, and gives back the best one together with all the others, each with the reason why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.decisions import Basics, Decision
from launcher.errors import JobError
from launcher.hardware import Machine
from launcher.jobfile.problems import SettingError
from launcher.jobfile.schema import JobFile
from launcher.memory import GIB, Layout, LoraLayout, Prediction, predict
from launcher.shape import ModelShape, targeted
from trainer.config import ENGINES

COMPUTE_BYTES = {"bfloat16": 2, "float32": 4}
USABLE_GPU_SHARE = 0.97
"""Drivers and other processes keep a little: an 80 GB GPU lets torch have 79.1 of 79.6 GiB."""
USABLE_CPU_SHARE = 0.85
MOST_TOKENS_PER_FORWARD = 16_384
"""From here on more tokens in a forward pass make no kernel more efficient."""
LAUNCH_OVERHEAD_TOKENS = {"cuda": 512, "cpu": 64}
"""Fixed cost of a forward pass, as the number of tokens that would take as long."""
RECOMPUTE_FACTOR = 4 / 3
"""Checkpointing runs the forward pass twice: 4 units of compute instead of 3 (Korthikanti et al. 2022)."""

RELATIVE_TIMES = {
    "cpu": {"zero0": 1.0, "zero1": 1.1, "zero2": 1.15, "fsdp2": 1.3, "zero3": 1.5},
    "single": {"zero0": 1.0, "fsdp2": 1.02, "zero1": 1.03, "zero2": 1.04, "zero3": 1.1},
    "full": {"zero1": 1.0, "zero2": 1.03, "fsdp2": 1.05, "zero0": 1.1, "zero3": 1.15},
    "lora": {"zero0": 1.0, "zero1": 1.01, "zero2": 1.03, "fsdp2": 1.05, "zero3": 1.15},
}
"""A first order of the engines by what they move and repeat; 1 is the quickest. On the CPU zero0, zero1 and fsdp2 are
measured (quickstart, two Gloo ranks: 94, 103 and 125 ms a step); the rest are estimates."""

ENGINE_REASONS = {
    "cpu": "everything fits on every rank, and one all-reduce a step is the least that Gloo can carry",
    "single": "one rank has nothing to shard",
    "full": "optimizer state is sharded, and no weights travel in the forward pass",
    "lora": "adapters are small enough to repeat on every rank",
    "fsdp2": "the model must be sharded to fit, and FSDP2 does that with the least overhead",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to lay the step over the ranks, with what it costs."""

    engine: str
    micro_batch: int
    accumulation: int
    checkpointing: bool
    relative_time: float
    prediction: Prediction | None

    @property
    def peak_bytes(self) -> int:
        """Predicted peak; 0 where the model's shape is not known."""
        return self.prediction.peak_bytes if self.prediction else 0

    @property
    def label(self) -> str:
        """The candidate in a few words."""
        checkpointing = "checkpointing" if self.checkpointing else "no checkpointing"
        return f"{self.engine}, micro-batch {self.micro_batch} x {self.accumulation}, {checkpointing}"


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A candidate that was not taken, and why."""

    candidate: Candidate
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The rejected plan as it stands in plan.json."""
        return {
            "engine": self.candidate.engine,
            "micro_batch": self.candidate.micro_batch,
            "accumulation": self.candidate.accumulation,
            "gradient_checkpointing": self.candidate.checkpointing,
            "peak_bytes": self.candidate.peak_bytes or None,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The plan that was taken, those that were not, and the reasons."""

    candidate: Candidate
    rejected: list[Rejected]
    decisions: list[Decision]
    limit_bytes: int


def choose(job: JobFile, basics: Basics, shape: ModelShape | None, machine: Machine) -> Choice:
    """The best layout that fits.

    Args:
        job: The job file.
        basics: What is settled already.
        shape: The model's shape; `None` when its `config.json` is not on this machine.
        machine: Where the run takes place.

    Raises:
        SettingError: a setting contradicts the step or the model.
        JobError: nothing fits; the message names the least that is needed.
    """
    _check_micro_batch(job, basics)
    _check_targets(job, shape)
    _check_engine(job, basics)
    limit = memory_limit_bytes(basics, machine)
    candidates = every_candidate(job, basics, shape)
    fitting = [candidate for candidate in candidates if candidate.peak_bytes <= limit]
    if not fitting:
        raise _nothing_fits(job, candidates, limit)
    best = min(fitting, key=_rank)
    rejected = [_reject(other, best, limit) for other in sorted(candidates, key=_rank) if other is not best]
    return Choice(
        candidate=best, rejected=rejected, decisions=_decisions(job, basics, best, fitting), limit_bytes=limit
    )


def every_candidate(job: JobFile, basics: Basics, shape: ModelShape | None) -> list[Candidate]:
    """Every layout that the job file leaves open, whether it fits or not."""
    return [_candidate(job, basics, shape, *options) for options in _options(job, basics, shape)]


def memory_limit_bytes(basics: Basics, machine: Machine) -> int:
    """What one rank may take on this machine."""
    if basics.device == "cuda":
        return int(machine.gpu_memory_bytes * USABLE_GPU_SHARE)
    return int(machine.memory_bytes * USABLE_CPU_SHARE / basics.ranks_per_node)


def _check_micro_batch(job: JobFile, basics: Basics) -> None:
    asked = job.resources.micro_batch
    if asked == "auto" or basics.packs_per_rank % asked == 0:
        return
    divisors = _divisors(basics.packs_per_rank)
    near = sorted(sorted(divisors, key=lambda d: abs(d - asked))[:2])
    raise SettingError(
        "resources.micro_batch",
        f"must divide the {basics.packs_per_rank} packs that each rank has in a step",
        got=asked,
        remedy=f"Nearest: {' or '.join(map(str, near))}.",
    )


def _check_targets(job: JobFile, shape: ModelShape | None) -> None:
    if job.method.kind != "lora" or shape is None:
        return
    try:
        targeted(shape, job.method.target_modules)
    except JobError as error:
        raise SettingError("method.target_modules", error.message, remedy=error.remedy) from None


def _check_engine(job: JobFile, basics: Basics) -> None:
    if job.resources.engine in _unsupported(job, basics):
        raise SettingError(
            "resources.engine",
            "cannot train all weights in bfloat16: DeepSpeed keeps float32 master weights from stage 1 on only",
            got=job.resources.engine,
            remedy="Use zero1, which is the same on one GPU, or `model.dtype: float32`.",
        )


def _unsupported(job: JobFile, basics: Basics) -> tuple[str, ...]:
    return ("zero0",) if job.method.kind == "full" and basics.dtype == "bfloat16" else ()


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _options(job: JobFile, basics: Basics, shape: ModelShape | None) -> Iterator[tuple[str, int, bool]]:
    """Every combination of engine, micro-batch and checkpointing that the job file leaves open."""
    asked = job.resources
    every = [engine for engine in ENGINES if engine not in _unsupported(job, basics)]
    engines = every if asked.engine == "auto" else [asked.engine]
    if asked.micro_batch != "auto":
        micro_batches = [asked.micro_batch]
    else:
        micro_batches = _divisors(basics.packs_per_rank) if shape else [1]
    wanted = job.training.gradient_checkpointing
    for engine in engines:
        for micro_batch in micro_batches:
            for checkpointing in ([False, True] if shape else [True]) if wanted == "auto" else [wanted]:
                yield engine, micro_batch, checkpointing


def _candidate(
    job: JobFile, basics: Basics, shape: ModelShape | None, engine: str, micro_batch: int, checkpointing: bool
) -> Candidate:
    tokens = micro_batch * job.data.max_length
    layout = Layout(
        engine=engine,
        world_size=basics.world_size,
        device=basics.device,
        compute_bytes=COMPUTE_BYTES[basics.dtype],
        tokens=tokens,
        checkpointing=checkpointing,
        chunk_tokens=job.loss.chunk_tokens,
        lora=_lora(job),
    )
    return Candidate(
        engine=engine,
        micro_batch=micro_batch,
        accumulation=basics.packs_per_rank // micro_batch,
        checkpointing=checkpointing,
        relative_time=_relative_time(job, basics, engine, tokens, checkpointing),
        prediction=predict(shape, layout) if shape else None,
    )


def _lora(job: JobFile) -> LoraLayout | None:
    method = job.method
    if method.kind != "lora":
        return None
    return LoraLayout(
        r=method.r,
        target_modules=method.target_modules,
        use_dora=method.use_dora,
        quantization=method.quantization,
        double_quantization=method.double_quantization,
    )


def _situation(job: JobFile, basics: Basics) -> str:
    if basics.device == "cpu":
        return "cpu"
    return "single" if basics.world_size == 1 else job.method.kind


def _relative_time(job: JobFile, basics: Basics, engine: str, tokens: int, checkpointing: bool) -> float:
    """Time per token against the quickest plan one can think of: a first order, not a speed model."""
    filled = min(tokens, MOST_TOKENS_PER_FORWARD)
    launches = 1 + LAUNCH_OVERHEAD_TOKENS[basics.device] / filled
    recompute = RECOMPUTE_FACTOR if checkpointing else 1
    return RELATIVE_TIMES[_situation(job, basics)][engine] * launches * recompute


def _rank(candidate: Candidate) -> tuple[float, int]:
    return round(candidate.relative_time, 3), candidate.peak_bytes


def _reject(candidate: Candidate, best: Candidate, limit_bytes: int) -> Rejected:
    peak = candidate.peak_bytes
    if candidate.prediction and peak > limit_bytes:
        phase = candidate.prediction.binding_phase
        reason = f"does not fit: {peak / GIB:.1f} GiB in {phase}, {limit_bytes / GIB:.1f} GiB usable"
    elif _rank(candidate)[0] > _rank(best)[0]:
        reason = f"fits, but takes about {100 * (candidate.relative_time / best.relative_time - 1):.1f} % longer"
    else:
        reason = f"fits and is as quick, but needs more memory: {peak / GIB:.1f} GiB"
    return Rejected(candidate=candidate, reason=reason)


def _nothing_fits(job: JobFile, candidates: list[Candidate], limit_bytes: int) -> JobError:
    least = min(candidates, key=lambda candidate: candidate.peak_bytes)
    phase = least.prediction.binding_phase if least.prediction else ""
    return JobError(
        f"no plan fits: the leanest ({least.label}) needs {least.peak_bytes / GIB:.1f} GiB per rank "
        f"in its {phase} phase, and {limit_bytes / GIB:.1f} GiB are usable",
        f"Use {_leaner_method(job)}a shorter data.max_length, a smaller model, or more ranks.",
    )


def _leaner_method(job: JobFile) -> str:
    if job.method.kind == "full":
        return "`method: {kind: lora}`, "
    return "" if job.method.quantization == "nf4" else "`quantization: nf4` in `method`, "


def _decisions(job: JobFile, basics: Basics, best: Candidate, fitting: list[Candidate]) -> list[Decision]:
    accumulation = Decision(
        setting="execution.accumulation",
        value=best.accumulation,
        reason=f"{basics.packs_per_rank} packs of a rank / {best.micro_batch} packs in a forward pass",
    )
    return [*_open_decisions(job, basics, best, fitting), accumulation]


def _open_decisions(job: JobFile, basics: Basics, best: Candidate, fitting: list[Candidate]) -> Iterator[Decision]:
    if job.resources.engine == "auto":
        yield Decision(setting="resources.engine", value=best.engine, reason=_engine_reason(job, basics, best))
    if job.resources.micro_batch == "auto":
        yield Decision(
            setting="resources.micro_batch", value=best.micro_batch, reason=_micro_batch_reason(best, fitting)
        )
    if job.training.gradient_checkpointing == "auto":
        reason = _checkpointing_reason(best)
        yield Decision(setting="training.gradient_checkpointing", value=best.checkpointing, reason=reason)


def _engine_reason(job: JobFile, basics: Basics, best: Candidate) -> str:
    situation = _situation(job, basics)
    preferred = min(RELATIVE_TIMES[situation], key=lambda engine: RELATIVE_TIMES[situation][engine])
    if best.engine == preferred:
        return ENGINE_REASONS[situation]
    return ENGINE_REASONS.get(best.engine, f"the quickest engine that fits; {preferred} does not")


def _micro_batch_reason(best: Candidate, fitting: list[Candidate]) -> str:
    if best.prediction is None:
        return "the model's shape is not known here, so the smallest"
    largest = max(candidate.micro_batch for candidate in fitting)
    if best.micro_batch == largest:
        return "the largest that fits and divides the step: fewer, fuller forward passes"
    return f"fills a forward pass; up to {largest} would fit and gain nothing"


def _checkpointing_reason(best: Candidate) -> str:
    if best.prediction is None:
        return "the model's shape is not known here, so the safe side"
    if best.checkpointing:
        return "activations do not fit otherwise; costs a second forward pass"
    return "everything fits without, and it would cost a second forward pass"
