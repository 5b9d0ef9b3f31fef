"""Warn where a job file departs from the advice for its model and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from launcher.advice.advise import Advice, Situation, covered, settings_of
from launcher.advice.rules import COVERED_SHARE
from launcher.dataset.size import DatasetSize
from launcher.dataset.text_tokens import estimate_size
from launcher.dataset.token_counts import find_counted_size
from launcher.jobfile import JobFile
from trainer.schedule_rules import FEW_STEPS

WARNING_FACTOR = 3.0
"""Factor between set and advised value from which there is a warning."""
ANY_LENGTH = 4_194_304


def data_of(job: JobFile, vocabulary: int) -> tuple[DatasetSize, list[int]]:
    """Return the size of the job's data, counted if possible and else estimated, and estimated conversation lengths.

    The lengths include conversations that are longer than `data.max_length`.
    """
    whole = job.model_copy(update={"data": job.data.model_copy(update={"max_length": ANY_LENGTH})})
    text = estimate_size(whole, vocabulary)
    return find_counted_size([], job) or text, list(Counter(text.lengths).elements())


def warnings(job: JobFile, advice: Advice, situation: Situation) -> list[str]:
    """Return one warning for each departure of a job file from the advice, with the advised value and the reason.

    Settings are compared with those advised for the job's own method, even if another method is advised.
    """
    own = replace(advice, method=job.method.kind, settings=settings_of(situation, job.method.kind))
    return [
        *_approach_warnings(job, advice),
        *_setting_warnings(job, own),
        *_data_warnings(job, advice, situation),
    ]


def _approach_warnings(job: JobFile, advice: Advice) -> Iterator[str]:
    kind = "qlora" if job.method.quantization == "nf4" else job.method.kind
    if advice.approach != kind and not {advice.approach, kind} <= {"lora", "qlora"}:
        first = advice.reasons[0]
        yield f"method.kind is {job.method.kind}; advised is {advice.approach}: {first.reason} ({first.source})"


def _setting_warnings(job: JobFile, advice: Advice) -> Iterator[str]:
    training, method = job.training, job.method
    yield from _factor_warning("training.learning_rate", training.learning_rate, advice)
    yield from _factor_warning("training.num_train_epochs", training.num_train_epochs, advice, factor=2.0)
    if training.warmup_steps < 1 and training.warmup_steps > 0.2:
        yield f"training.warmup_steps is {training.warmup_steps:g} of all steps: more than a fifth of them is warm-up"
    if training.weight_decay > 0.2:
        yield f"training.weight_decay is {training.weight_decay:g}; 0 to 0.1 are usual"
    if method.kind == "lora":
        yield from _factor_warning("method.r", method.r, advice, factor=4.0)
        scale = method.lora_alpha / method.r
        if not 0.5 <= scale <= 8 and not method.use_rslora:
            yield f"method.lora_alpha / method.r is {scale:g}; 1 to 2 are usual (Biderman et al. 2024)"


def _factor_warning(setting: str, value: Any, advice: Advice, factor: float = WARNING_FACTOR) -> Iterator[str]:
    """Yield a warning if the value and the advised one differ by more than the factor."""
    advised = advice.value(setting)
    if not isinstance(value, int | float) or not advised or advice.method not in ("full", "lora", "qlora"):
        return
    if not 1 / factor <= value / advised <= factor:
        item = next(entry for entry in advice.settings if entry.setting == setting)
        yield f"{setting} is {value:g}; advised is {advised:g}: {item.reason} ({item.source})"


def _data_warnings(job: JobFile, advice: Advice, situation: Situation) -> Iterator[str]:
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
