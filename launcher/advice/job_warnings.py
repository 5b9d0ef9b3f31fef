"""Advice for a job file: its data read as far as it lies here, and warnings where it departs from what is advised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from launcher.advice.advise import Advice, Situation, covered, settings_of
from launcher.advice.rules import COVERED_SHARE
from launcher.dataset.size import DatasetSize
from launcher.dataset.text_tokens import estimate_size
from launcher.dataset.token_counts import tokenised_by
from launcher.jobfile import JobFile
from trainer.schedule_rules import FEW_STEPS

MUCH = 3.0
"""A factor by which a setting has to differ to be worth a warning."""
ANY_LENGTH = 4_194_304


def data_of(job: JobFile, vocabulary: int) -> tuple[DatasetSize, list[int]]:
    """How much data a job has, as `check` or a run has counted it, else by its text; and its lengths, none left out."""
    whole = job.model_copy(update={"data": job.data.model_copy(update={"max_length": ANY_LENGTH})})
    text = estimate_size(whole, vocabulary)
    return tokenised_by([], job) or text, list(Counter(text.lengths).elements())


def warnings(job: JobFile, advice: Advice, situation: Situation) -> list[str]:
    """Where a job file departs from the advice, each with what is advised and why.

    Numbers are held against what is advised for the job's own method, whichever is advised.
    """
    own = replace(advice, method=job.method.kind, settings=settings_of(situation, job.method.kind))
    return [*_of_approach(job, advice), *_of_numbers(job, own), *_of_data(job, advice, situation)]


def _of_approach(job: JobFile, advice: Advice) -> Iterator[str]:
    kind = "qlora" if job.method.quantization == "nf4" else job.method.kind
    if advice.approach != kind and not {advice.approach, kind} <= {"lora", "qlora"}:
        first = advice.reasons[0]
        yield f"method.kind is {job.method.kind}; advised is {advice.approach}: {first.reason} ({first.source})"


def _of_numbers(job: JobFile, advice: Advice) -> Iterator[str]:
    training, method = job.training, job.method
    yield from _far("training.learning_rate", training.learning_rate, advice)
    yield from _far("training.num_train_epochs", training.num_train_epochs, advice, at_least=2.0)
    if training.warmup_steps < 1 and training.warmup_steps > 0.2:
        yield f"training.warmup_steps is {training.warmup_steps:g} of all steps: more than a fifth of them is warm-up"
    if training.weight_decay > 0.2:
        yield f"training.weight_decay is {training.weight_decay:g}; 0 to 0.1 are usual"
    if method.kind == "lora":
        yield from _far("method.r", method.r, advice, at_least=4.0)
        scale = method.lora_alpha / method.r
        if not 0.5 <= scale <= 8 and not method.use_rslora:
            yield f"method.lora_alpha / method.r is {scale:g}; 1 to 2 are usual (Biderman et al. 2024)"


def _far(setting: str, value: Any, advice: Advice, at_least: float = MUCH) -> Iterator[str]:
    advised = advice.value(setting)
    if not isinstance(value, int | float) or not advised or advice.method not in ("full", "lora", "qlora"):
        return
    if not 1 / at_least <= value / advised <= at_least:
        item = next(entry for entry in advice.settings if entry.setting == setting)
        yield f"{setting} is {value:g}; advised is {advised:g}: {item.reason} ({item.source})"


def _of_data(job: JobFile, advice: Advice, situation: Situation) -> Iterator[str]:
    if situation.lengths:
        share = covered(situation.lengths, job.data.max_length)
        if share < COVERED_SHARE:
            yield (
                f"data.max_length {job.data.max_length} covers {100 * share:.1f} % of the rows, "
                f"advised is {advice.value('data.max_length')}: the rest would be {job.data.overlong}"
            )
    step = job.training.tokens_per_step
    if situation.tokens and step != "auto":
        steps = situation.tokens * job.training.num_train_epochs / step
        if steps < FEW_STEPS:
            yield f"about {steps:.0f} optimizer steps: training.tokens_per_step {step} is large for this data"
