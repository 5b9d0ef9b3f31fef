"""How other trainers hold their numbers, by name, so that a published measurement is predicted as it was made.

A trainer is a function of the method and the engine, because trainers differ in exactly that: accelerate's FSDP turns
bf16 weights that train into float32, DeepSpeed keeps a master copy, PEFT leaves adapters in float32. Nothing here
depends on one measured row; what a row's words say is applied on top (`reworded`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from launcher.sizing.trainer_model import BF16, FP32, TrainerModel

HF_AUTO = -1


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a trainer's habits depend on.

    Attributes:
        method: `full` or `lora`.
        quantised: Whether the base is packed.
        gptq: Packed by GPTQ, which PEFT's k-bit preparation leaves in two bytes.
        engine: As in `ParallelLayout`.
        amp: Mixed precision is on: autocast, or FSDP's policy. `None` is the trainer's own habit.
        fp32: Weights are loaded in float32.
    """

    method: str = "full"
    quantised: bool = False
    gptq: bool = False
    engine: str = "single"
    amp: bool | None = None
    fp32: bool = False

    @property
    def lora(self) -> bool:
        """Whether adapters train."""
        return self.method != "full"

    @property
    def upcast(self) -> bool:
        """Whether k-bit preparation makes float32 of norms."""
        return self.quantised and not self.gptq

    @property
    def is_fsdp(self) -> bool:
        """Either FSDP."""
        return self.engine in ("fsdp1", "fsdp2")

    @property
    def is_deepspeed(self) -> bool:
        """Any ZeRO stage."""
        return self.engine.startswith("zero")


def huggingface(s: TrainingSetup) -> TrainerModel:
    """Trainer, TRL's SFTTrainer, and what is built on them.

    A model loaded in bf16 trains in bf16 on one GPU; accelerate's FSDP makes float32 of what trains when mixed
    precision is on; DeepSpeed has a float32 master and buckets of `auto` size. Losses upcast logits.
    On a quantised base TRL leaves norms in float32, whose outputs make the residual stream float32 too.
    """
    mixed = s.amp if s.amp is not None else s.is_fsdp
    return TrainerModel(
        trained_bytes=FP32 if s.fp32 or (mixed and s.is_fsdp) else BF16,
        master=s.is_deepspeed and not s.fp32,
        autocast=bool(mixed),
        reduce_bucket=HF_AUTO,
        reduce_bytes=BF16,
        loss="hf_unshifted",
        hidden_fp32=s.upcast and not s.is_fsdp,
    )


def kbit(s: TrainingSetup) -> TrainerModel:
    """A plain loop with PEFT's `prepare_model_for_kbit_training` and no autocast (fitcheck, canifinetune)."""
    base = replace(huggingface(replace(s, amp=False)), loss="hf")
    if not s.upcast:
        return base
    return replace(base, kbit_upcast=True, hidden_fp32=True, loss="hf_fp32_head")


def fms(s: TrainingSetup) -> TrainerModel:
    """fms-hf-tuning with fms-acceleration: TRL; its quantised paths skip PEFT's upcast."""
    return replace(huggingface(replace(s, amp=bool(s.amp))), loss="hf", hidden_fp32=False)


def axolotl(s: TrainingSetup) -> TrainerModel:
    """TRL beneath; k-bit preparation for quantised bases; its FSDP2 skips accelerate's upcast to float32."""
    own = replace(s, amp=False) if s.engine == "fsdp2" else s
    return replace(huggingface(own), kbit_upcast=s.upcast and not s.is_fsdp)


def llamafactory(s: TrainingSetup) -> TrainerModel:
    """Trainer beneath; norms and head upcast for quantised bases, hidden states stay bf16 under autocast."""
    return replace(huggingface(replace(s, amp=True if s.amp is None else s.amp)), kbit_upcast=False)


def swift(s: TrainingSetup) -> TrainerModel:
    """ms-swift: Trainer, weights in bf16, autocast."""
    return huggingface(replace(s, amp=True if s.amp is None and not s.is_fsdp else s.amp))


def qwen(s: TrainingSetup) -> TrainerModel:
    """Qwen's finetune.py: Trainer with DeepSpeed's bf16, LoRA beside a bf16 base, k-bit preparation for Int4 bases."""
    return replace(huggingface(s), loss="hf", kbit_upcast=False)


def torchtune(s: TrainingSetup) -> TrainerModel:
    """torchtune: bf16 throughout, adapters too; logits computed whole and lost in chunks.

    FSDP2 without master, embeddings and output as groups of their own (`custom_sharded_layers`).
    """
    return TrainerModel(
        trained_bytes=BF16,
        adapter_bytes=BF16,
        casts_inputs=False,
        foreach=False,
        loss="linear_chunks",
        splits_root=True,
        reduce_bytes=BF16,
        stack="compiled",
    )


def torchtitan(s: TrainingSetup) -> TrainerModel:
    """torchtitan: FSDP2 with float32 shards, bf16 compute, float32 loss, fused AdamW; compiled only if it is said.

    Embeddings and head are groups of their own.
    """
    return TrainerModel(
        trained_bytes=FP32,
        foreach=False,
        loss="hf_unshifted",
        fused_norms=True,
        reduce_bytes=FP32,
        splits_root=True,
        stack="compiled",
    )


def litgpt(s: TrainingSetup) -> TrainerModel:
    """litgpt: `bf16-true` throughout, adapters too; chunked cross-entropy on bf16 logits; FSDP1.

    Its attention expands keys and values to all heads; its configurations have dropout on adapters and an older
    bitsandbytes.
    """
    return TrainerModel(
        trained_bytes=FP32 if s.fp32 else BF16,
        adapter_bytes=BF16,
        casts_inputs=False,
        loss="bf16",
        repeats_kv=True,
        saves_packed_inputs=True,
        dropout=True,
        autocast=bool(s.amp),
        retains_input_gradients=True,
        stack="compiled",
    )


def foundry(s: TrainingSetup) -> TrainerModel:
    """llm-foundry: FSDP1 on float32 weights with bf16 compute and reduction; low-precision LayerNorm, fused loss."""
    return TrainerModel(
        trained_bytes=FP32, foreach=True, loss="fused_ce", fused_norms=True, reduce_bytes=BF16, stack="fused"
    )


def unsloth(s: TrainingSetup) -> TrainerModel:
    """unsloth: fused norms, MLP and loss; hidden states of checkpoints in host memory."""
    return TrainerModel(
        fused_norms=True, fused_mlp=True, casts_inputs=False, loss="cce", foreach=False, stack="unsloth"
    )


def megatron(s: TrainingSetup) -> TrainerModel:
    """Megatron-LM, NeMo, Bridge: bf16 weights and gradients, master and moments split over data ranks."""
    return TrainerModel(
        trained_bytes=BF16,
        adapter_bytes=BF16,
        master=True,
        grad_bytes=BF16,
        foreach=False,
        fused_norms=True,
        fused_mlp=True,
        casts_inputs=False,
        loss="parallel",
        stack="megatron",
        attention="cudnn",
    )


def deepspeed(s: TrainingSetup) -> TrainerModel:
    """DeepSpeed's own examples: defaults of its configuration."""
    return replace(huggingface(s), reduce_bucket=0, loss="hf")


def fsdp_qlora(s: TrainingSetup) -> TrainerModel:
    """AnswerDotAI's fsdp_qlora: FSDP1, packed weights stored and sharded in bf16, Transformers' loss."""
    return replace(
        huggingface(replace(s, amp=False if s.amp is None else s.amp)),
        loss="hf",
        adapter_bytes=BF16,
        casts_inputs=False,
    )


UNSYNCHRONISED = ("litgpt",)
"""Trainers that accumulate under `no_sync` by default, so that every rank holds whole gradients."""
ALWAYS_DEEPSPEED = {"qwen": "zero2"}
"""Trainers whose scripts run a full fine-tune through DeepSpeed even on one GPU."""
PRINTS = {"torchtune": "allocated", "litgpt": "allocated", "torchtitan": "reserved", "fsdp_qlora": "reserved"}
"""What a trainer prints as memory: the allocator's peak, or what it reserved."""

TRAINERS: dict[str, Callable[[TrainingSetup], TrainerModel]] = {
    "huggingface": huggingface,
    "trl": huggingface,
    "peft": huggingface,
    "kbit": kbit,
    "fms": fms,
    "axolotl": axolotl,
    "llamafactory": llamafactory,
    "swift": swift,
    "qwen": qwen,
    "torchtune": torchtune,
    "torchtitan": torchtitan,
    "litgpt": litgpt,
    "foundry": foundry,
    "unsloth": unsloth,
    "megatron": megatron,
    "deepspeed": deepspeed,
    "fsdp_qlora": fsdp_qlora,
}
"""Every trainer by name."""

WORDS: tuple[tuple[str, str], ...] = (
    (r"hf\+fa2|baseline in unsloth", "huggingface"),
    (r"fsdp_qlora|answer\.?dot?ai", "fsdp_qlora"),
    (r"unsloth", "unsloth"),
    (r"megatron|nemo|mcore|bridge|mlperf", "megatron"),
    (r"torchtitan", "torchtitan"),
    (r"torchtune", "torchtune"),
    (r"litgpt|lit-gpt|lightning", "litgpt"),
    (r"foundry|composer|mosaic", "foundry"),
    (r"fitcheck|canifinetune|prepare_model_for_kbit", "kbit"),
    (r"fms-|foundation-model", "fms"),
    (r"axolotl", "axolotl"),
    (r"llama-?factory", "llamafactory"),
    (r"ms-swift|\bswift", "swift"),
    (r"qwen/qwen|qwen.*readme|qwenlm", "qwen"),
    (r"deepspeed", "deepspeed"),
    (r"peft|trl|transformers|accelerate|hugging|\bhf\b", "huggingface"),
)
"""Words that name a trainer, the most telling first."""


def named(name: str, setup: TrainingSetup) -> TrainerModel:
    """A trainer by its name; an unknown name is Hugging Face's Trainer."""
    return TRAINERS.get(name, huggingface)(setup)


def guess(*texts: str) -> str:
    """The trainer that some words speak of, Hugging Face's Trainer when none does; the first text counts most."""
    for text in texts:
        for pattern, name in WORDS:
            if re.search(pattern, text.lower()):
                return name
    return "huggingface"


def reworded(trainer: TrainerModel, words: str) -> TrainerModel:
    """The trainer with what a description says about kernels, optimizers and compilation."""
    text, changes = words.lower(), dict[str, object]()
    if re.search(r"\bfoak|fast.kernels", text):
        changes |= {"fused_norms": True, "loss": "fused_ce"}
    if re.search(r"baseline.peft.bnb", text):
        changes |= {"hidden_fp32": True}
    if re.search(r"liger|fused[- ]linear", text):
        changes |= {"loss": "liger", "fused_norms": True}
    if re.search(r"cut.cross|\bcce\b", text):
        changes |= {"loss": "cce"}
    if re.search(r"whole fp32 loss", text):
        changes |= {"loss": "hf_unshifted"}
    if re.search(r"chunked ce|chunked (cross|loss)", text):
        changes |= {"loss": "linear_chunks" if "linear" not in text else "chunked"}
    if re.search(r"\bcompile(d)?( on)?\b", text):
        changes |= {"compiled": True, "fused_norms": True}
        if trainer.loss == "hf_unshifted":
            changes |= {"loss": "compiled"}
    if re.search(r"\bfused\b", text) and "liger" not in text:
        changes |= {"foreach": False}
    return replace(trainer, **changes)  # type: ignore[arg-type]
