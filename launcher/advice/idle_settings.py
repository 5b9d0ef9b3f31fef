"""Settings of a job that do nothing beside its other settings: no mistake that must stop it, but never silent."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.jobfile.schema import JobFile
from trainer.config import CheckpointConfig, EvaluationConfig


def idle_settings(job: JobFile) -> Iterator[str]:
    """One line for each setting without effect, and what would give it one."""
    held_out, evaluation, checkpoint = job.data.eval, job.evaluation, job.checkpoint
    if evaluation.every_steps and not (held_out.split or held_out.path):
        yield "evaluation.every_steps does nothing, as no rows are held out: set data.eval, or delete it"
    if evaluation.max_new_tokens != _default(EvaluationConfig, "max_new_tokens") and not evaluation.generate:
        yield "evaluation.max_new_tokens does nothing without prompts: set evaluation.generate, or delete it"
    if checkpoint.max_overhead != _default(CheckpointConfig, "max_overhead") and checkpoint.every_minutes != "auto":
        yield "checkpoint.max_overhead only acts with `every_minutes: auto`: write that, or delete it"


def _default(section: type[EvaluationConfig | CheckpointConfig], name: str) -> object:
    return section.model_fields[name].default
