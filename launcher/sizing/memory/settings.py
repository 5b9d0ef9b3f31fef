"""What memory depends on: how a trainer holds numbers (`Regime`), and what is trained where (`Job`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from launcher.sizing.shape import ModelShape

FP32 = 4
BF16 = 2

Engine = Literal["single", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp1", "fsdp2", "megatron"]
Checkpointing = Literal["none", "selective", "full", "offload"]
Attention = Literal["flash", "sdpa", "eager"]


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
float32, and one chunk's share of it in two bytes.
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
class Regime:
    """How a trainer holds its numbers, whatever the model.

    Attributes:
        trained_bytes: Bytes of a weight that a full fine-tune trains, as the forward pass or FSDP holds it.
        frozen_bytes: Bytes of a weight that LoRA leaves alone and nothing quantises.
        adapter_bytes: Bytes of an adapter's number; PEFT keeps them in float32.
        saved_bytes: Bytes of a number of modules that train whole beside adapters (`modules_to_save`), which PEFT
            leaves as they were loaded.
        master: A float32 copy beside the weights (DeepSpeed, Megatron).
        grad_bytes: Bytes of a gradient; 0 is as the weight that it belongs to.
        autocast: float32 weights are cast for each product, and casts stay cached over a forward pass.
        kbit_upcast: PEFT's `prepare_model_for_kbit_training`: embeddings, head and norms in float32.
        hidden_fp32: The residual stream is float32 (k-bit upcast without autocast).
        casts_inputs: PEFT casts the input of each adapted projection to the adapter's type, one copy each.
        foreach: AdamW makes one temporary list as large as the parameters.
        fused_norms: Norms keep their input only, not a float32 copy.
        fused_mlp: Gate and product are one kernel that recomputes.
        repeats_kv: Keys and values are expanded to all heads before attention.
        loss: Name in `LOSSES`.
        chunk_tokens: Tokens of a chunk where the kernel works in chunks; 0 is the kernel's own number.
        reduce_bucket: Elements of a bucket of gradients; 0 is DeepSpeed's default of 5e8, -1 is `auto` (hidden size
            squared).
        reduce_bytes: Bytes of a gradient on its way.
        retains_input_gradients: FSDP1 holds every block's input gradient until the backward pass ends when blocks
            have frozen weights (multi-gradient hooks of its reshard-only path).
        prefetched_blocks: Whole blocks that lie unsharded at one time in backward.
        quantised_on_every_rank: Packed weights are not sharded.
        compiled: torch.compile fuses norms, activations and casts.
        quantises_experts: Whether routed experts are packed too; bitsandbytes skips the stacked parameters that they
            are from transformers 5 on.
        splits_root: Embeddings and output head are groups of their own under FSDP.
        saves_packed_inputs: Packed products keep their input for backward, as bitsandbytes did before 0.44.
        dropout: The trainer's examples have dropout on adapters.
    """

    trained_bytes: int = BF16
    frozen_bytes: int = BF16
    adapter_bytes: int = FP32
    saved_bytes: int = BF16
    master: bool = False
    grad_bytes: int = 0
    autocast: bool = False
    kbit_upcast: bool = False
    hidden_fp32: bool = False
    casts_inputs: bool = True
    foreach: bool = True
    fused_norms: bool = False
    fused_mlp: bool = False
    repeats_kv: bool = False
    loss: str = "hf_unshifted"
    chunk_tokens: int = 0
    reduce_bucket: int = 0
    reduce_bytes: int = BF16
    retains_input_gradients: bool = True
    prefetched_blocks: int = 2
    quantised_on_every_rank: bool = False
    compiled: bool = False
    quantises_experts: bool = True
    splits_root: bool = False
    saves_packed_inputs: bool = False
    dropout: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """LoRA's settings that change memory.

    Attributes:
        r: Rank.
        targets: Projections, as PEFT reads them.
        dropout: Whether its mask and its copy of the input are kept.
        saved_modules: Parameters of modules that train whole beside the adapters.
    """

    r: int = 16
    targets: str | list[str] = "all-linear"
    dora: bool = False
    dropout: bool = False
    bias: str = "none"
    saved_modules: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and how it is laid over GPUs.

    Attributes:
        quantization: `""`, `nf4`, `nf4_plain` (no double quantisation), `int8`, or `gptq4`.
        shards: GPUs that share model states; 0 is all that data parallelism has (less with a hybrid shard).
        offload: What lies in host memory: `""`, `optimizer`, or `all` (parameters too).
        micro_batch: Sequences in one forward pass of a rank.
        length: Tokens of one sequence.
        padded_length: Longest sequence of attention that is not packed; matters to eager attention only.
        accumulation: Forward passes before a step.
        shard_packed: Each rank has a part of every packed weight, whatever the engine, and gathers one layer's
            projection at a time (this project's `shard_quantized`).
        unsynchronised: Gradients are kept whole until the last of them (`no_sync`).
        checkpointing: What is computed again: `selective` keeps the outputs of products and attention.
        optimizer: Name in `OPTIMIZER_BYTES`.
        in_backward: Each weight steps as soon as its gradient is there (not with accumulation).
        gpu_gib: Memory that the job may use; paged states leave when it gets full.
    """

    shape: ModelShape
    regime: Regime = field(default_factory=Regime)
    adapters: Adapters | None = None
    quantization: str = ""
    engine: Engine = "single"
    gpus: int = 1
    shards: int = 0
    reshard: bool = True
    offload: str = ""
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    sequence_parallel: bool = True
    micro_batch: int = 1
    length: int = 2048
    accumulation: int = 1
    shard_packed: bool = False
    unsynchronised: bool = False
    checkpointing: Checkpointing = "full"
    attention: Attention = "flash"
    optimizer: str = "adamw"
    in_backward: bool = False
    gpu_gib: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass that one rank of context parallelism has."""
        return -(-self.micro_batch * self.length // self.cp)

    @property
    def data_ranks(self) -> int:
        """Ranks that hold the same part of the model under tensor and pipeline parallelism."""
        return max(1, self.gpus // (self.tp * self.pp))

    @property
    def sharded_over(self) -> int:
        """Ranks among which the states of one part of the model are split."""
        return min(self.shards, self.data_ranks) if self.shards else self.data_ranks

    def shards_from(self, stage: int) -> int:
        """Over how many ranks is split what ZeRO splits from `stage` on (1 states, 2 gradients, 3 weights).

        Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 5. FSDP splits everything; without resharding
        after the forward pass the whole weights come on top and are counted as gathered. Megatron's distributed
        optimizer is stage 1.
        """
        own = {"zero1": 1, "zero2": 2, "zero3": 3, "fsdp1": 3, "fsdp2": 3, "megatron": 1}.get(self.engine, 0)
        return self.sharded_over if own >= stage else 1

    @property
    def is_fsdp(self) -> bool:
        """Either generation of FSDP."""
        return self.engine in ("fsdp1", "fsdp2")

    @property
    def is_deepspeed(self) -> bool:
        """Any ZeRO stage."""
        return self.engine.startswith("zero")
