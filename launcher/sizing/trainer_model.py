"""What a trainer does that costs memory or time, whatever the model: how it holds numbers, which kernels it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FP32 = 4
BF16 = 2
OUR_BUCKET = 200_000_000
"""Elements of the trainer's largest bucket of gradients (`trainer.engines.zero.LARGEST_BUCKET`)."""

Attention = Literal["flash", "flash1", "cudnn", "sdpa", "eager"]
Stack = Literal["hf", "fused", "unsloth", "compiled", "megatron"]


@dataclass(frozen=True, kw_only=True)
class LossKernel:
    """Copies of the logits that are alive at the peak of the loss.

    Attributes:
        logit_bytes: Bytes per token and entry of the vocabulary, forward and backward together.
        chunk_tokens: Tokens whose logits exist at one time; 0 is all of them.
        by_width: A chunk holds as many logits as the tokens have hidden numbers (Liger's rule).
        head_gradient: Bytes per entry of a gradient of the output head that the kernel gathers while it goes on.
    """

    logit_bytes: float
    chunk_tokens: int = 0
    by_width: bool = False
    head_gradient: int = 0


LOSSES: dict[str, LossKernel] = {
    "hf": LossKernel(logit_bytes=14),
    "hf_fp32_head": LossKernel(logit_bytes=16),
    "hf_unshifted": LossKernel(logit_bytes=12),
    "fused_ce": LossKernel(logit_bytes=8),
    "fused_ce_shifted": LossKernel(logit_bytes=10),
    "bf16": LossKernel(logit_bytes=8),
    "plain_amp": LossKernel(logit_bytes=18),
    "plain_fused": LossKernel(logit_bytes=4),
    "plain_amp_fused": LossKernel(logit_bytes=14),
    "compiled": LossKernel(logit_bytes=8),
    "chunked": LossKernel(logit_bytes=12, chunk_tokens=2048, head_gradient=6),
    "chunked_fp32": LossKernel(logit_bytes=8, chunk_tokens=2048, head_gradient=8),
    "linear_chunks": LossKernel(logit_bytes=2.5),
    "liger": LossKernel(logit_bytes=8, by_width=True, head_gradient=2),
    "cce": LossKernel(logit_bytes=0, head_gradient=2),
    "parallel": LossKernel(logit_bytes=10),
}
"""Kernels by name, counted on their sources and checked against the rows.

hf: 2 logits, 4 their float32 copy, 4 the shifted copy, 4 log-softmax (transformers before 4.45).
hf_fp32_head: all four of float32, for the head computes in float32 (k-bit upcast).
hf_unshifted: labels are shifted, not logits (transformers from 4.48).
fused_ce: unsloth's and fms' kernel writes the gradient over its input: 2 logits, 2 shifted copy, 4 float32;
fused_ce_shifted: its form before transformers 4.45, on float32 logits shifted by a copy.
bf16: four copies of two bytes (xtuner measured 38.53 GiB for 32,768 x 151,936).
chunked: this project's: logits and gradient of one chunk, each in two bytes and in float32; the head's gradient in
float32, and one chunk's share of it in two bytes. chunked_fp32: the same where weights are float32 and nothing is cast.
linear_chunks: logits in 2 bytes as a whole, and float32 for one chunk of eight (torchtune).
plain, plain_amp: model classes that never upcast (GPT-2, GPT-NeoX, ...); autocast makes float32 of the loss.
"""

OPTIMIZER_BYTES: dict[str, float] = {
    "adamw": 2.0,
    "adamw_fused": 2.0,
    "adamw_8bit": 0.0,
    "paged_adamw_8bit": 0.0,
    "adafactor": 0.0,
    "sgd": 0.0,
    "lion": 1.0,
    "none": 0.0,
}
"""Moments as multiples of the trained weights' own bytes; 8-bit states are counted apart."""


@dataclass(frozen=True, kw_only=True)
class TrainerModel:
    """A trainer's habits that change memory or speed, whatever the model and the layout.

    Attributes:
        number_format: Of the linear layers: `bf16`, `fp16`, `fp32`, `tf32`, `fp8`, `fp4`; empty is the GPU's own
            16-bit format.
        compute_bytes: Bytes of a weight in the forward pass, and of an activation.
        trained_bytes: Bytes of a weight that a full fine-tune trains, as the forward pass or FSDP holds it.
        frozen_bytes: Bytes of a weight that LoRA leaves alone and nothing quantises.
        adapter_bytes: Bytes of an adapter's number; PEFT keeps them in float32.
        saved_bytes: Bytes of a number of modules that train whole beside adapters (`modules_to_save`), which PEFT
            leaves as they were loaded.
        master: A float32 copy beside the weights (DeepSpeed, Megatron).
        grad_bytes: Bytes of a gradient; 0 is as the weight that it belongs to.
        optimizer: Name in `OPTIMIZER_BYTES`.
        in_backward: Each weight steps as soon as its gradient is there (not with accumulation).
        unsynchronised: Gradients are kept whole until the last of them (`no_sync`).
        autocast: float32 weights are cast for each product, and casts stay cached over a forward pass.
        kbit_upcast: PEFT's `prepare_model_for_kbit_training`: embeddings, head and norms in float32.
        hidden_fp32: The residual stream is float32 (k-bit upcast without autocast).
        casts_inputs: PEFT casts the input of each adapted projection to the adapter's type, one copy each.
        foreach: AdamW makes one temporary list as large as the parameters.
        attention: Kernel: `flash`, `flash1` (before FlashAttention-2), `cudnn`, torch's `sdpa`, or `eager`, which
            writes its scores.
        stack: Software around the products, a key of `launcher.sizing.speed.kernels.STACKS`.
        fused_norms: Norms keep their input only, not a float32 copy.
        fused_mlp: Gate and product are one kernel that recomputes.
        compiled: torch.compile fuses norms, activations and casts.
        repeats_kv: Keys and values are expanded to all heads before attention.
        expert_loop: A mixture's experts run one after the other, as Transformers before 5 had them.
        loss: Name in `LOSSES`.
        reduce_bucket: Elements of a bucket of gradients; 0 is DeepSpeed's default of 5e8, -1 is `auto` (hidden size
            squared).
        reduce_bytes: Bytes of a gradient on its way.
        reshards: FSDP drops gathered weights after the forward pass.
        retains_input_gradients: FSDP1 holds every block's input gradient until the backward pass ends when blocks
            have frozen weights (multi-gradient hooks of its reshard-only path).
        prefetched_blocks: Whole blocks that lie unsharded at one time in backward.
        splits_root: Embeddings and output head are groups of their own under FSDP.
        quantised_on_every_rank: Packed weights are not sharded with the others.
        quantises_experts: Whether routed experts are packed too; bitsandbytes skips the stacked parameters that they
            are from transformers 5 on.
        saves_packed_inputs: Packed products keep their input for backward, as bitsandbytes did before 0.44.
        dropout: The trainer's examples have dropout on adapters.
    """

    number_format: str = ""
    compute_bytes: int = BF16
    trained_bytes: int = BF16
    frozen_bytes: int = BF16
    adapter_bytes: int = FP32
    saved_bytes: int = BF16
    master: bool = False
    grad_bytes: int = 0
    optimizer: str = "adamw"
    in_backward: bool = False
    unsynchronised: bool = False
    autocast: bool = False
    kbit_upcast: bool = False
    hidden_fp32: bool = False
    casts_inputs: bool = True
    foreach: bool = True
    attention: Attention = "flash"
    stack: Stack = "hf"
    fused_norms: bool = False
    fused_mlp: bool = False
    compiled: bool = False
    repeats_kv: bool = False
    expert_loop: bool = False
    loss: str = "hf_unshifted"
    reduce_bucket: int = 0
    reduce_bytes: int = BF16
    reshards: bool = True
    retains_input_gradients: bool = True
    prefetched_blocks: int = 2
    splits_root: bool = False
    quantised_on_every_rank: bool = False
    quantises_experts: bool = True
    saves_packed_inputs: bool = False
    dropout: bool = False

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation: 4 where k-bit preparation makes the residual stream float32 without autocast."""
        return FP32 if self.hidden_fp32 else self.compute_bytes


def our_trainer(
    engine: str,
    *,
    dtype: str = "bfloat16",
    optim: str = "adamw_torch_fused",
    attention: Attention = "flash",
) -> TrainerModel:
    """Our own trainer, as its code holds numbers on an engine.

    FSDP2 keeps float32 shards and computes in bf16; DeepSpeed keeps weights of the compute type, and from stage 1 on a
    float32 master of its part, and gradients in float32, in buckets of 2e8. The loss is chunked. Packed weights lie
    whole on every rank, or are split on their own (`ParallelLayout.shard_quantized`); experts are not packed. Adapters
    are float32, but FSDP2 and ZeRO 1 to 3 compute them in bf16, so that inputs are cast for them only without either.

    Args:
        engine: `zero0` to `zero3`, or `fsdp2`.
        dtype: `bfloat16`, or `float32` for weights and products alike.
        optim: As the job file has it.
        attention: As memory and speed tell kernels apart.
    """
    single = dtype == "float32"
    compute = FP32 if single else BF16
    partitioned = engine in ("zero1", "zero2", "zero3")
    trained = compute if partitioned else FP32
    return TrainerModel(
        number_format="fp32" if single else "",
        compute_bytes=compute,
        trained_bytes=trained,
        frozen_bytes=compute,
        adapter_bytes=trained,
        saved_bytes=trained,
        master=partitioned,
        grad_bytes=FP32 if engine.startswith("zero") else 0,
        casts_inputs=not (partitioned or single or engine.startswith("fsdp")),
        foreach=optim == "adamw_torch",
        attention=attention,
        loss="chunked_fp32" if single else "chunked",
        reduce_bucket=OUR_BUCKET,
        reduce_bytes=FP32,
        quantised_on_every_rank=True,
        quantises_experts=False,
    )
