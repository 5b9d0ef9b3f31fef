"""The number of steps of a run: from the job file, counted in the data, or estimated from its text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.advice.rules import EPOCHS, pick
from launcher.dataset.size import DatasetSize
from launcher.jobfile.schema import JobFile
from launcher.planner.settings.defaults import Decision, StepLayout
from rundir.quantities import count
from trainer.schedule_rules import FEW_STEPS, warmup_count

EXACT = "training.max_steps"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Optimizer steps of a run.

    Attributes:
        number: All of them; `None` where nobody can know.
        source: Who says so, or why nobody can.
        is_exact: Not estimated.
        per_epoch: Of one epoch; `None` where nobody can know.
        packs: Packs of one epoch; 0 where nobody can know.
        warmup: Those of the warm-up.
    """

    number: int | None
    source: str = ""
    is_exact: bool = False
    per_epoch: int | None = None
    packs: int = 0
    warmup: int | None = None

    def as_json(self) -> dict[str, int | str | bool | None]:
        """The steps as they stand in plan.json."""
        return {
            "number": self.number,
            "source": self.source or None,
            "is_exact": self.is_exact,
            "per_epoch": self.per_epoch,
            "packs_per_epoch": self.packs or None,
            "warmup": self.warmup,
        }


def steps_of(job: JobFile, step_layout: StepLayout) -> Steps:
    """The steps of a job: `max_steps`, or those that its epochs have."""
    data, training = step_layout.data, job.training
    packs = data.packs(job.data.max_length, bool(job.data.packing))
    per_epoch = math.ceil(packs / step_layout.packs_per_step) or None
    number, source, is_exact = training.max_steps, EXACT, True
    if number is None:
        number, source, is_exact = _of_epochs(training.num_train_epochs, per_epoch), data.source, data.is_exact
    warmup = warmup_count(training, number) if number else None
    return Steps(
        number=number,
        source=source,
        is_exact=is_exact,
        per_epoch=per_epoch,
        packs=packs if per_epoch else 0,
        warmup=warmup,
    )


def _of_epochs(epochs: float, per_epoch: int | None) -> int | None:
    if not per_epoch:
        return None
    whole = int(epochs)
    return whole * per_epoch + math.ceil((epochs - whole) * per_epoch)


def with_packing(job: JobFile, data: DatasetSize, ranks: int) -> tuple[JobFile, list[Decision]]:
    """The job with `data.packing` decided: off where packs would leave few steps.

    Args:
        job: The job file.
        data: How much data there is.
        ranks: As many as the job may take on one node, or asks for.
    """
    if job.data.packing != "auto":
        return job, []
    packs, training = data.packs(job.data.max_length), job.training
    open_step = training.max_steps is None and training.tokens_per_step == "auto"
    few = packs * training.num_train_epochs < ranks * FEW_STEPS
    apart = data.is_known and open_step and few and data.rows > packs
    packed = job.model_copy(update={"data": job.data.model_copy(update={"packing": not apart})})
    if not apart:
        return packed, []
    reason = (
        f"{count(data.rows, 'conversation')} would share {count(packs, 'pack')} of {job.data.max_length} "
        f"tokens, which leaves {count(ranks, 'rank')} few steps"
    )
    return packed, [Decision(setting="data.packing", value=False, reason=reason)]


def step_warnings(job: JobFile, step_layout: StepLayout) -> Iterator[str]:
    """What is wrong with the steps of a job, and what to do about it."""
    steps = steps_of(job, step_layout)
    if steps.per_epoch is None or steps.number is None:
        return
    if step_layout.packs_per_step > steps.packs:
        yield _larger_than_an_epoch(job, step_layout, steps)
    if steps.number < FEW_STEPS:
        about = "" if steps.is_exact else "about "
        ways = "; ".join(more_steps(job, step_layout, steps))
        plural = "step is" if steps.number == 1 else "steps are"
        yield f"{about}{steps.number} optimizer {plural} few: some {FEW_STEPS} are the least to learn from. {ways}"


def _larger_than_an_epoch(job: JobFile, step_layout: StepLayout, steps: Steps) -> str:
    tokens = step_layout.packs_per_step * job.data.max_length
    empty = step_layout.world_size - steps.packs
    ranks = f", and {empty} of {count(step_layout.world_size, 'rank')} have nothing to do" if empty > 0 else ""
    packs = count(steps.packs, "pack")
    step = f"{tokens:,} tokens ({count(step_layout.packs_per_step, 'pack')})"
    return f"a step of {step} is larger than an epoch ({packs}){ranks}"


def more_steps(job: JobFile, step_layout: StepLayout, steps: Steps) -> Iterator[str]:
    """Changes that make more steps, in words, each with what it would make."""
    assert steps.number
    data, training = step_layout.data, job.training
    length = _shorter(job, step_layout)
    if step_layout.packs_per_step > step_layout.world_size and training.tokens_per_step != "auto":
        yield "leave training.tokens_per_step at auto"
    if step_layout.world_size > 1 and "auto" not in (job.resources.gpus_per_node, job.resources.cpu_ranks):
        yield "ask for fewer ranks"
    if length:
        packs = data.packs(length, bool(job.data.packing))
        per_epoch = math.ceil(packs / step_layout.packs_per_step)
        if per_epoch > (steps.per_epoch or 0):
            yield f"data.max_length: {length} (the longest row has {data.longest} tokens) makes {per_epoch} an epoch"
    if training.max_steps is None:
        advised = pick(EPOCHS, data.rows).value
        if advised > training.num_train_epochs:
            yield (
                f"training.num_train_epochs: {advised} makes {_of_epochs(advised, steps.per_epoch)}"
                f" (advised for {count(data.rows, 'row')})"
            )
    else:
        yield "raise training.max_steps"
    yield "more data helps most"


def _shorter(job: JobFile, step_layout: StepLayout) -> int:
    """Half of `max_length`, or half of that and so on, as long as the longest row fits; 0 where none does."""
    length = job.data.max_length
    while step_layout.data.longest and length // 2 >= max(step_layout.data.longest, 8):
        length //= 2
    return length if length < job.data.max_length else 0
