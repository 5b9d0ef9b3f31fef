"""Find settings of a job file that have no effect because of its other settings; the plan warns of them."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.jobfile.schema import JobFile
from trainer.config import CheckpointConfig, EvaluationConfig


def idle_settings(job: JobFile) -> Iterator[str]:
    """Yield one warning for each setting without effect, with what to change."""
    held_out, evaluation, checkpoint = job.data.eval, job.evaluation, job.checkpoint
    if evaluation.every_steps and not (held_out.split or held_out.path):
        yield "evaluation.every_steps does nothing, as no rows are held out: set data.eval, or delete it"
    if evaluation.max_new_tokens != _default(EvaluationConfig, "max_new_tokens") and not evaluation.generate:
        yield "evaluation.max_new_tokens does nothing without prompts: set evaluation.generate, or delete it"
    if checkpoint.max_overhead != _default(CheckpointConfig, "max_overhead") and checkpoint.every_minutes != "auto":
        yield "checkpoint.max_overhead only acts with `every_minutes: auto`: write that, or delete it"


def _default(section: type[EvaluationConfig | CheckpointConfig], name: str) -> object:
    return section.model_fields[name].default
