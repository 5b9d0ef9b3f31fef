"""A question without a job file: memory, speed, hours and cost of a model, a method and some GPUs.

It is put as the job file that it amounts to and asked of the same search: `estimate` and `plan` say the same. If
nothing fits, the leanest layout is shown with the smallest changes that would make it fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.dataset.size import DatasetSize, unknown_size
from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.model.files import find_config
from launcher.planner.ask.estimate import LENGTH, LONGEST, METHODS, Estimate, estimate_of, require_known, shape_of
from launcher.planner.ask.what_if import imagined
from launcher.planner.choice.search import Question, search
from launcher.planner.layouts.candidates import Candidate, PlanningContext
from launcher.planner.layouts.gpu_candidate import PlannedGpu
from launcher.planner.settings.node_counts import step_layouts_for
from launcher.planner.settings.num_steps import Steps, steps_of, with_packing
from launcher.sizing.gpus import MOST_GPUS, GpuCount
from launcher.sizing.layout import Adapters
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.amounts import MEAN_ROW_TOKENS
from launcher.sizing.speed.cost import Bill, bill
from launcher.sizing.speed.predict import Speed
from trainer.config import ENGINES

METHOD_SECTIONS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora"},
    "qlora": {"kind": "lora", "quantization": "nf4"},
    "int8": {"kind": "lora", "quantization": "int8"},
}
SAME_ENGINE = {"single": "zero0", "ddp": "zero0"}
"""What others call it when nothing is sharded."""
SHORT = 512


@dataclass(frozen=True, kw_only=True)
class EstimateQuestion:
    """What is asked; empty and 0 leave it open.

    Attributes:
        model: A name of the catalogue, a folder with a `config.json`, or that file.
        method: `full`, `lora`, `qlora` or `int8`.
        gpus: How many of which GPU.
        engine: `zero0` to `zero3`, or `fsdp2`.
        length: Tokens of one pack.
        micro_batch: Packs of one forward pass.
        accumulation: Forward passes of a rank in a step.
        checkpointing: `none` or `full`.
        lora_r: Rank of adapters.
        tokens: Tokens to train on, all epochs together.
        rows: Conversations of one pass.
        epochs: Passes that make up `tokens`.
        document_length: Mean length of a conversation inside a pack; 0 takes whole packs.
        walltime_hours: Longest life of one attempt; 0 has no end.
    """

    model: str
    method: str
    gpus: GpuCount
    engine: str = ""
    length: int = LENGTH.default
    micro_batch: int = 0
    accumulation: int = 0
    checkpointing: str = ""
    lora_r: int = Adapters.r
    tokens: int = 0
    rows: int = 0
    epochs: float = 1.0
    document_length: float = 0.0
    walltime_hours: float = 0.0

    def job(self) -> JobFile:
        """The job file that the question amounts to."""
        method = METHOD_SECTIONS[self.method]
        if method["kind"] == "lora":
            method = method | {"r": self.lora_r}
        training: dict[str, Any] = {"num_train_epochs": self.epochs}
        if self.checkpointing:
            training["gradient_checkpointing"] = self.checkpointing == "full"
        if self.accumulation:
            packs = max(1, self.micro_batch) * self.accumulation * self.gpus.count
            training["tokens_per_step"] = packs * self.length
        resources = {
            "engine": SAME_ENGINE.get(self.engine, self.engine) or "auto",
            "micro_batch": self.micro_batch or (1 if self.accumulation else "auto"),
        }
        return JobFile.model_validate(
            {
                "name": "estimate",
                "model": {"path": self.model},
                "method": method,
                "data": {"train": [{"path": "estimate"}], "max_length": self.length},
                "training": training,
                "resources": resources,
            }
        )

    def amounts(self) -> DatasetSize:
        """One pass through the data that the question speaks of."""
        if not self.tokens:
            return unknown_size("no amount of data was given")
        tokens = self.tokens / self.epochs
        rows = self.rows or max(1.0, tokens / (self.document_length or MEAN_ROW_TOKENS))
        return DatasetSize(rows=rows, tokens=tokens, source="as given", lengths={}, is_exact=False)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What would run, and what it takes.

    Attributes:
        question: What was asked.
        estimate: Memory of GPU and host, disk, and the verdict.
        candidate: The layout that a plan would take, or the leanest.
        speed: How quick it is.
        bill: Hours and cost; `None` without a number of tokens.
        fits: Whether it would run.
        suggestions: If it does not fit, changes that make it fit, the smallest first.
    """

    question: EstimateQuestion
    estimate: Estimate
    candidate: Candidate
    speed: Speed
    bill: Bill | None
    fits: bool
    suggestions: tuple[str, ...] = ()

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader should know about the speed."""
        shape = self.estimate.given.shape
        return (*self.question.gpus.gpu.cautions, *(shape.notes if shape.counted else ()))

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed: those of the estimate, then speed and bill."""
        return {
            **self.estimate.as_json(),
            "cautions": list(self.cautions),
            "accumulation": self.candidate.layout.accumulation,
            "speed": self.speed.as_json(),
            "bill": self.bill.as_json() if self.bill else None,
            "nearest": list(self.suggestions),
        }


def answer(question: EstimateQuestion) -> Answer:
    """The estimate for a question.

    Raises:
        JobError: it cannot be answered: an unknown model, method or engine, a length beyond reason.
    """
    require_known("method", question.method, METHODS)
    require_known("engine", SAME_ENGINE.get(question.engine, question.engine) or ENGINES[0], ENGINES)
    require_known("checkpointing", question.checkpointing or "full", ("none", "full"))
    if not 8 <= question.length <= LONGEST:
        near = min(max(question.length, 8), LONGEST)
        raise JobError(f"--length {question.length:,}: a pack has 8 to {LONGEST:,} tokens", f"Nearest: {near:,}.")
    shape = shape_named(question.model)
    best = best_answer(question, shape)
    return best if best.fits else replace(best, suggestions=tuple(_suggestions(question, shape)))


def shape_named(model: str) -> ModelShape:
    """A model's shape from a folder, a `config.json`, the hub's cache here, or the catalogue.

    Raises:
        JobError: none of these knows the model; the nearest names are given.
    """
    config = None if Path(model).exists() else find_config(model)
    return shape_of(config or model)


def best_answer(question: EstimateQuestion, shape: ModelShape) -> Answer:
    """The layout that a plan would take; the leanest where none fits."""
    candidate, steps, fits = _found(question, shape)
    given, speed, gpu = candidate.memory_input, candidate.speed, candidate.gpu
    if given is None or speed is None or gpu is None:
        raise JobError(f"{question.gpus.gpu.name}: the sizing models do not know it", "Name a GPU of the catalogue.")
    tokens, cost = question.tokens, None
    if tokens:
        cost = bill(speed, candidate.layout, gpu, tokens, question.walltime_hours, steps.number or 0)
    return Answer(
        question=question,
        estimate=estimate_of(given, method=question.method, data_tokens=tokens),
        candidate=candidate,
        speed=speed,
        bill=cost,
        fits=fits,
    )


def _found(question: EstimateQuestion, shape: ModelShape) -> tuple[Candidate, Steps, bool]:
    """The search's best layout, its steps, and whether it fits.

    Raises:
        JobError: the question contradicts itself.
    """
    job, machine = imagined(question.job(), f"{question.gpus.count}x{question.gpus.gpu.name}")
    data = question.amounts()
    job, _ = with_packing(job, data, question.gpus.count)
    gpu = PlannedGpu(gpu=question.gpus.gpu, is_known=True)
    context = PlanningContext(machine=machine, gpu=gpu, shape=shape, data=data)
    ranked = search(
        Question(job=job, step_layouts=step_layouts_for(job, machine, shape=shape, data=data), context=context)
    )
    return ranked.best, steps_of(job, ranked.best.step_layout), bool(ranked.fitting)


def _suggestions(question: EstimateQuestion, shape: ModelShape) -> Iterator[str]:
    """Changes, one at a time, that make it fit."""
    opened = replace(question, micro_batch=0, checkpointing="", engine="")
    yield from (words for words, changed in _changes(opened) if _found(changed, shape)[2])
    for factor in (2, 4, 8, 16, 32, 64):
        more = GpuCount(gpu=question.gpus.gpu, count=min(MOST_GPUS, question.gpus.count * factor))
        if _found(replace(opened, gpus=more), shape)[2]:
            yield f"--gpus {more.count}x{more.gpu.name}"
            return


def _changes(opened: EstimateQuestion) -> Iterator[tuple[str, EstimateQuestion]]:
    """Changes that cost least first: what was left closed, a leaner method, a shorter pack."""
    yield "leave --engine, --micro-batch and --checkpointing open", opened
    for method in METHODS[METHODS.index(opened.method) + 1 : 3]:
        yield f"--method {method}", replace(opened, method=method)
    for length in (opened.length // 2, opened.length // 4):
        if length >= SHORT:
            yield f"--length {length}", replace(opened, length=length)
