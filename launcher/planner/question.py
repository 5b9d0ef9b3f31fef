"""A question without a job file, asked of the planner: the job that flags of `estimate` mean, and its best layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.dataset.amounts import Amounts, no_amounts
from launcher.errors import JobError
from launcher.jobfile.schema import JobFile
from launcher.planner.candidates import Candidate, Ground
from launcher.planner.gpu_candidate import PlannedGpu
from launcher.planner.node_counts import basics_for
from launcher.planner.num_steps import Steps, steps_of, with_packing
from launcher.planner.select import laid_out, preferred
from launcher.planner.what_if import imagined
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.amounts import MEAN_ROW_TOKENS
from trainer.config import ENGINES

if TYPE_CHECKING:
    from launcher.planner.request import Request

METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora"},
    "qlora": {"kind": "lora", "quantization": "nf4"},
    "int8": {"kind": "lora", "quantization": "int8"},
}
ALONE = {"single": "zero0", "ddp": "zero0"}
"""What other trainers call it when nothing is sharded."""


def job_of(request: Request) -> JobFile:
    """The job file that a request amounts to.

    Raises:
        JobError: it asks for what no job can have.
    """
    method = METHODS[request.method]
    if method["kind"] == "lora":
        method = method | {"r": request.lora_r, "target_modules": request.targets}
    training: dict[str, Any] = {"num_train_epochs": request.epochs}
    if request.checkpointing:
        training["gradient_checkpointing"] = request.checkpointing == "full"
    if request.accumulation:
        training["tokens_per_step"] = (
            max(1, request.micro_batch) * request.accumulation * request.gpus.count * request.length
        )
    resources = {
        "engine": ALONE.get(request.engine, request.engine) or "auto",
        "micro_batch": request.micro_batch or (1 if request.accumulation else "auto"),
    }
    return JobFile.model_validate(
        {
            "name": "estimate",
            "model": {"path": request.model},
            "method": method,
            "data": {"train": [{"path": "estimate"}], "max_length": request.length},
            "training": training,
            "resources": resources,
        }
    )


def refuse_what_no_job_has(request: Request) -> None:
    """Refuses flags that only other trainers know.

    Raises:
        JobError: with the presets that the flag goes with.
    """
    others = "Other trainers do: name one with --preset, such as trl or axolotl."
    if request.offload:
        raise JobError(f"--offload {request.offload}: no job of ours can have it, states stay on the GPUs", others)
    if request.checkpointing == "selective":
        raise JobError("--checkpointing selective: ours is none or full", others)
    if request.engine and ALONE.get(request.engine, request.engine) not in ENGINES:
        raise JobError(f"--engine {request.engine}: ours are {', '.join(ENGINES)}", others)


def amounts_of(request: Request) -> Amounts:
    """One pass through the data that a request speaks of."""
    if not request.tokens:
        return no_amounts("no amount of data was given")
    tokens = request.tokens / request.epochs
    rows = request.rows or max(1.0, tokens / (request.document_length or MEAN_ROW_TOKENS))
    return Amounts(rows=rows, tokens=tokens, source="as given", lengths={}, is_exact=False)


def best_candidate(request: Request, shape: ModelShape) -> tuple[Candidate, Steps, bool]:
    """The planner's own choice for a request, its steps, and whether it fits; where nothing does, the leanest.

    Raises:
        JobError: the request contradicts itself.
    """
    job, machine = imagined(job_of(request), f"{request.gpus.count}x{request.gpus.gpu.name}")
    gpu = PlannedGpu(gpu=request.gpus.gpu, is_known=True)
    data = amounts_of(request)
    job, _ = with_packing(job, data, request.gpus.count)
    ground = Ground(machine=machine, gpu=gpu, shape=shape, data=data)
    every, fitting, _ = laid_out(job, basics_for(job, machine, shape=shape, data=ground.data), ground)
    best = preferred(job, fitting) if fitting else min(every, key=lambda candidate: candidate.peak_bytes)
    return best, steps_of(job, best.basics), bool(fitting)
