"""What to change when a prediction was too low: the cheapest plan that needs clearly less memory."""

from __future__ import annotations

from typing import Any

from launcher.jobfile.schema import JobFile
from launcher.planner.choice.search import Question, search
from launcher.planner.choice.select import Choice
from launcher.planner.layouts.candidates import Candidate, PlanningContext
from rundir.quantities import GIB, gib

LEANER_SHARE = 0.85
"""A plan counts as leaner when its predicted peak is at most this share: predictions are not better than that."""


def out_of_memory(job: JobFile, choice: Choice, context: PlanningContext) -> str:
    """One sentence for a run that ran out of memory although its plan seemed to fit."""
    taken = choice.candidate
    leaner = [
        other
        for other in search(Question(job=_opened(job), step_layouts=[choice.step_layout], context=context)).candidates
        if other.prediction and other.peak_bytes <= LEANER_SHARE * taken.peak_bytes
    ]
    if not leaner:
        anew = "a shorter data.max_length" + (" or `method: {kind: lora}`" if job.method.kind == "full" else "")
        return f"no layout of this job needs clearly less memory: use more ranks or, in a new run, {anew}"
    best = min(leaner, key=lambda other: (round(_slower(other, taken), 3), len(_changes(other, taken))))
    settings = " and ".join(f"{name} to {_text(value)}" for name, value in _changes(best, taken).items())
    less = f"{gib(best.peak_bytes)} instead of {taken.peak_bytes / GIB:.1f}"
    return f"set {settings}: predicted {less}, {_cost(_slower(best, taken))}"


def _opened(job: JobFile) -> JobFile:
    """The job with every layout setting open, since results do not depend on them."""
    resources = job.resources.model_copy(update={"engine": "auto", "micro_batch": "auto", "shard_quantized": "auto"})
    training = job.training.model_copy(update={"gradient_checkpointing": "auto"})
    return job.model_copy(update={"resources": resources, "training": training})


def _changes(other: Candidate, taken: Candidate) -> dict[str, Any]:
    wanted = {
        "resources.engine": (other.layout.engine, taken.layout.engine),
        "resources.micro_batch": (other.layout.micro_batch, taken.layout.micro_batch),
        "training.gradient_checkpointing": (other.checkpointing, taken.checkpointing),
        "resources.shard_quantized": (other.layout.shard_quantized, taken.layout.shard_quantized),
    }
    return {name: new for name, (new, old) in wanted.items() if new != old}


def _slower(other: Candidate, taken: Candidate) -> float:
    """The share of time that the other plan takes longer; 0 when it is as quick or quicker."""
    return max(0.0, other.relative_time / taken.relative_time - 1)


def _cost(slower: float) -> str:
    return f"about {100 * slower:.0f} % slower" if slower >= 0.005 else "about as quick"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
