"""What the trainer needs to tokenise a job's data before anything else is decided."""

from __future__ import annotations

from typing import Any

from launcher.advice.rules import learning_rate
from launcher.jobfile.schema import SHARED_SECTIONS, JobFile
from trainer.config import TrainerConfig, unresolved

PLACEHOLDERS: dict[str, Any] = {
    "model.attention": "sdpa",
    "data.packing": True,
    "model.dtype": "float32",
    "training.gradient_checkpointing": True,
}
"""For what a plan would decide, and tokenising does not look at."""


def counting_config(job: JobFile) -> TrainerConfig:
    """The trainer's configuration of a job that has no plan: one rank, and a pack in a step."""
    sections = {name: getattr(job, name).model_dump() for name in SHARED_SECTIONS}
    if job.method.kind == "full":
        sections["method"] = {"kind": "full"}
    decided = PLACEHOLDERS | {"training.learning_rate": learning_rate(job.method.kind, 0).value}
    for name in unresolved(job):
        section, _, setting = name.partition(".")
        if name in decided:
            sections[section][setting] = decided[name]
    sections["training"]["tokens_per_step"] = job.data.max_length
    execution = {
        "engine": "fsdp2",
        "device": "cpu",
        "world_size": 1,
        "packs_per_step": 1,
        "micro_batch": 1,
        "accumulation": 1,
    }
    return TrainerConfig.model_validate({"name": job.name, **sections, "execution": execution})
