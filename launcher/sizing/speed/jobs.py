"""One job for both models: what the memory model calls a job, as the speed model's layout."""

from __future__ import annotations

from launcher.sizing.gpus import Gpu
from launcher.sizing.memory import Job
from launcher.sizing.speed.layout import SpeedLayout

STACKS_OF_PRESETS = {
    "foundry": "fused",
    "litgpt": "compiled",
    "megatron": "megatron",
    "torchtitan": "compiled",
    "torchtune": "compiled",
    "unsloth": "unsloth",
}
"""Software of each preset; those that are not named run Transformers' modules one kernel at a time."""
SHARDINGS = {"single": "none", "ddp": "ddp", "zero0": "ddp", "fsdp1": "fsdp", "fsdp2": "fsdp", "megatron": "zero1"}
RECOMPUTES = {"none": "none", "selective": "selective", "full": "full", "offload": "full"}
OPTIMIZERS = {"adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "adamw_8bit", "lion": "lion", "adafactor": "lion"}
QUANTISATIONS = {"nf4": "nf4", "nf4_plain": "nf4", "gptq4": "gptq4", "int8": "int8"}


def speed_layout(
    job: Job, gpu: Gpu, preset: str = "tuneyard", *, document_length: float = 0.0, fill: float = 1.0
) -> SpeedLayout:
    """The layout of a job of the memory model.

    Args:
        job: What is trained where.
        gpu: On which GPU.
        preset: Name of the trainer, as in `launcher.sizing.presets`.
        document_length: Mean number of keys in a token's own document; 0 takes whole sequences.
        fill: Share of positions that are no padding.
    """
    return SpeedLayout(
        gpu=gpu,
        num_gpus=job.gpus,
        trained=job.adapters is None,
        quantization=QUANTISATIONS.get(job.quantization),
        packed="sharded" if job.shard_packed else "whole" if job.regime.quantised_on_every_rank else "engine",
        micro_batch=job.micro_batch,
        length=job.length,
        accumulation=job.accumulation,
        attended=min(document_length, job.length),
        fill=fill,
        sharding="none" if job.gpus == 1 else SHARDINGS.get(job.engine, job.engine),
        shard_ranks=job.shards,
        tp=job.tp,
        pp=job.pp,
        cp=job.cp,
        ep=job.ep,
        recompute=RECOMPUTES[job.checkpointing],
        attention=_attention(job, preset),
        stack=_stack(job, preset),
        number_format=gpu.half,
        stream=_stream(job),
        adapted=_adapted(job),
        lora_r=job.adapters.r if job.adapters else 16,
        optimizer=_optimizer(job),
        gradient_bytes=job.regime.reduce_bytes,
        offload={"": "none", "all": "parameters"}.get(job.offload, job.offload),
    )


def _attention(job: Job, preset: str) -> str:
    if job.attention == "eager":
        return "eager"
    return "cudnn" if preset == "megatron" else "flash"


def _stack(job: Job, preset: str) -> str:
    if job.regime.compiled:
        return "compiled"
    stack = STACKS_OF_PRESETS.get(preset, "hf")
    return "fused" if stack == "hf" and job.regime.fused_norms else stack


def _stream(job: Job) -> str:
    if not job.regime.kbit_upcast:
        return "half"
    return "full" if job.regime.hidden_fp32 else "norms"


def _adapted(job: Job) -> str:
    if job.adapters is None:
        return "none"
    targets = job.adapters.targets
    mlp = ("mlp", "gate", "up_proj", "down", "fc", "w1", "all-linear")
    return (
        "all"
        if any(word in target for word in mlp for target in ([targets] if isinstance(targets, str) else targets))
        else "attention"
    )


def _optimizer(job: Job) -> str:
    if job.in_backward:
        return "in_backward"
    known = OPTIMIZERS.get(job.optimizer)
    if known:
        return known
    if not job.regime.foreach:
        return "adamw_fused"
    return "adamw_bf16" if job.regime.trained_bytes == 2 and not job.regime.master else "adamw"
