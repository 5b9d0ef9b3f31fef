"""Weights, gradients, moments, master weights: what stays from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from launcher.sizing.layout import Adapters
from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.shape import Linear, ModelShape, lora_parameters
from launcher.sizing.trainer_model import BF16, FP32, OPTIMIZER_BYTES
from rundir.quantities import GIB

NF4_BLOCK = 64
"""Numbers of a weight that share a scale in bitsandbytes' NF4."""
SCALES_BLOCK = 256
"""Scales that share a float32 scale of their own when they are quantised too, and numbers per scale in 8-bit Adam."""
GPTQ_GROUP = 128
SUBGROUP = 1_000_000_000
"""DeepSpeed's `sub_group_size`: ZeRO-3 steps through its partition in pieces of so many elements."""
MOST_COUNTED = 256
EIGHT_BIT_ADAM = 2 + 2 * FP32 / SCALES_BLOCK
"""Two moments of a byte each, and a float32 scale per block of 256 for each."""


@dataclass(frozen=True)
class Parameters:
    """How many numbers one rank of tensor, pipeline and expert parallelism has of each kind."""

    given: MemoryInput

    @cached_property
    def model_ranks(self) -> int:
        """Ranks over which tensor and pipeline parallelism split the layers' projections."""
        return self.given.layout.tp * self.given.layout.pp

    @cached_property
    def expert_ranks(self) -> int:
        """Ranks over which routed experts are split."""
        layout = self.given.layout
        return max(layout.tp, layout.ep) * layout.pp

    @cached_property
    def layers(self) -> int:
        """Parameters of the layers of one rank; experts are split over expert ranks, the rest over tensor ranks."""
        shape = self.given.shape
        experts = sum(linear.num_parameters * count for linear, count in shape.linear_counts() if linear.is_expert)
        dense = shape.num_parameters - shape.root_parameters - experts
        return int(dense / self.model_ranks + experts / self.expert_ranks)

    @cached_property
    def root(self) -> int:
        """Embeddings and head: split over tensor ranks; with a pipeline a stage has one of them, not both."""
        shape, layout = self.given.shape, self.given.layout
        halves = 2 if layout.pp > 1 and not shape.tied_embeddings else 1
        return shape.root_parameters // (layout.tp * halves)

    @cached_property
    def base(self) -> int:
        """Parameters of the model on one rank, before any sharding of data parallelism."""
        return self.layers + self.root

    @cached_property
    def quantised(self) -> int:
        """Numbers that are packed: the weights of the layers' projections, never embeddings, head, or biases."""
        shape = self.given.shape
        if not self.given.layout.quantization:
            return 0
        experts = sum(linear.weights * count for linear, count in shape.linear_counts() if linear.is_expert)
        dense = (shape.linear_weights - experts) / self.model_ranks
        return int(dense + (experts / self.expert_ranks if self.given.trainer.quantises_experts else 0))

    @cached_property
    def adapters(self) -> int:
        """Parameters of LoRA on one rank; tensor parallelism splits one of each pair, so about half stays."""
        layout, chosen = self.given.layout, self.given.layout.adapters
        if chosen is None:
            return 0
        share = (1 + 1 / layout.tp) / 2 / layout.pp
        return int(_adapters_of(self.given.shape, chosen) * share) + chosen.saved_modules // self.model_ranks

    @cached_property
    def trained(self) -> int:
        """Parameters that train on one rank, before sharding; whole modules count by their bytes beside adapters."""
        chosen, trainer = self.given.layout.adapters, self.given.trainer
        if not chosen:
            return self.base
        whole = chosen.saved_modules // self.model_ranks
        return self.adapters - whole + whole * trainer.saved_bytes // trainer.adapter_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes of one of them as the optimizer or the forward pass holds it."""
        return self.given.trainer.adapter_bytes if self.given.layout.adapters else self.given.trainer.trained_bytes


_COUNTED: dict[tuple[int, str], tuple[ModelShape, int]] = {}
"""Parameters of adapters by shape and settings: a plan asks for them thousands of times. The shape is kept beside the
number, so that no other can come by its identity."""


def _adapters_of(shape: ModelShape, chosen: Adapters) -> int:
    key = (id(shape), repr((chosen.r, chosen.targets, chosen.dora, chosen.bias)))
    if key not in _COUNTED:
        if len(_COUNTED) >= MOST_COUNTED:
            _COUNTED.clear()
        number = lora_parameters(
            shape, r=chosen.r, target_modules=chosen.targets, use_dora=chosen.dora, bias=chosen.bias
        )
        _COUNTED[key] = (shape, number)
    return _COUNTED[key][1]


def packed_bytes(weights: int, quantization: str) -> float:
    """Bytes of quantised weights with their scales.

    NF4 (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3): 4 bits a number, and per block of 64 a scale of
    32 bits, 0.5 bits a number. Double quantisation makes the scale a byte and adds 32 bits per 256 scales: 0.127
    bits a number. GPTQ: 4 bits, and a 16-bit scale and 4-bit zero per group of 128. int8 (Dettmers et al. 2022,
    arXiv 2208.07339): a byte a number; its scale per row is less than a thousandth.
    """
    if quantization == "int8":
        return weights * 1.0
    if quantization == "gptq4":
        return weights * (0.5 + (2 + 0.5) / GPTQ_GROUP)
    scales = FP32 if quantization == "nf4_plain" else 1 + FP32 / SCALES_BLOCK
    return weights * (0.5 + scales / NF4_BLOCK)


def weight_bytes(given: MemoryInput) -> float:
    """Weights of one rank: frozen ones, packed ones, and those that train.

    In a full fine-tune under FSDP or plain autocast they are what the optimizer updates. LoRA's frozen base is of
    the compute type; k-bit preparation holds embeddings and head in float32 (PEFT, `prepare_model_for_kbit_training`).
    Packed weights are split by FSDP when they are stored in the shards' type, else whole on every rank; or split on
    their own, whatever the engine (`shard_quantized`).
    """
    p, layout, trainer = Parameters(given), given.layout, given.trainer
    if not layout.adapters:
        return p.base * trainer.trained_bytes / layout.shards_from(3)
    plain = trainer.frozen_bytes if not (p.quantised and trainer.kbit_upcast) else FP32
    loose = (p.base - p.quantised) * plain
    packed = packed_bytes(p.quantised, layout.quantization) if p.quantised else 0.0
    whole = packed if trainer.quantised_on_every_rank else packed / layout.shards_from(3)
    whole = packed / layout.sharded_over if layout.shard_quantized else whole
    return (loose + p.trained * trainer.adapter_bytes) / layout.shards_from(3) + whole


def loaded_bytes(given: MemoryInput) -> int:
    """Bytes of a number as the weights are loaded, where nothing packs them."""
    return given.trainer.frozen_bytes if given.layout.adapters else given.trainer.trained_bytes


def arriving_bytes(given: MemoryInput) -> float:
    """What is whole on a GPU, beyond its shard, while weights are handed out and sharded (docs/decisions/0012).

    FSDP2 receives one tensor at a time beside all shards; ZeRO-3 and FSDP1 one layer, or what is outside the layers,
    which then becomes a shard. Beside packed weights every rank loads what is not packed whole, and shards it then.
    """
    if given.layout.shards_from(3) == 1:
        return 0.0
    shape, each, beyond = given.shape, loaded_bytes(given), 1 - 1 / given.layout.shards_from(3)
    if given.layout.quantization:
        p = Parameters(given)
        return (p.base - p.quantised) * each * beyond
    if given.layout.engine == "fsdp2":
        weights = [linear.weights for linear in shape.largest_layer.linears]
        return max(*weights, *(tensor.num_parameters for tensor in shape.root)) * each
    return max(shape.layer_parameters, shape.root_parameters) * each * beyond


def autocast_cache_bytes(given: MemoryInput) -> float:
    """Casts of float32 weights to the compute type, which autocast keeps until the forward pass ends."""
    trainer, layout = given.trainer, given.layout
    if trainer.autocast and not layout.adapters and trainer.trained_bytes == FP32 and not layout.is_fsdp:
        return float(Parameters(given).base * BF16)
    return 0.0


def gradient_bytes(given: MemoryInput) -> float:
    """Gradients once the backward pass has ended.

    The optimizer in the backward pass drops each at once. `no_sync` keeps them whole until the last pass of a step.
    """
    if given.trainer.in_backward and given.layout.accumulation == 1:
        return 0.0
    p = Parameters(given)
    each = given.trainer.grad_bytes or p.trained_bytes
    held = 1 if given.trainer.unsynchronised and given.layout.accumulation > 1 else given.layout.shards_from(2)
    return 0.0 if given.layout.offload else p.trained * each / held


def moment_bytes(given: MemoryInput) -> float:
    """Moments of AdamW (2 numbers in the type of what it updates), of 8-bit AdamW, or less."""
    if given.layout.offload:
        return 0.0
    p = Parameters(given)
    own = FP32 if given.trainer.master else p.trained_bytes
    each = OPTIMIZER_BYTES[given.trainer.optimizer] * own
    if "8bit" in given.trainer.optimizer:
        each = EIGHT_BIT_ADAM
    return p.trained * each / given.layout.shards_from(1)


def master_bytes(given: MemoryInput) -> float:
    """A float32 copy of what trains, where the engine keeps one beside weights of two bytes."""
    if not given.trainer.master or given.layout.offload:
        return 0.0
    return Parameters(given).trained * FP32 / given.layout.shards_from(1)


def step_bytes(given: MemoryInput) -> float:
    """What the optimizer step takes for a moment.

    torch's foreach AdamW makes one list as large as the parameters (10 N bytes in all where the states are 8 N; every
    single-GPU row of fms-acceleration shows it). DeepSpeed copies gradients to float32: of its whole partition in
    stages 1 and 2, of a sub-group in stage 3. Fused and 8-bit kernels need nothing.
    """
    if given.layout.offload:
        return 0.0
    p = Parameters(given)
    split = p.trained / given.layout.shards_from(1)
    if given.layout.is_deepspeed and given.trainer.master:
        return FP32 * (min(split, SUBGROUP) if given.layout.engine == "zero3" else split)
    if given.trainer.in_backward or not given.trainer.foreach or given.trainer.optimizer not in ("adamw", "lion"):
        return 0.0
    return split * p.trained_bytes


def largest_linear(given: MemoryInput) -> Linear:
    """The projection with most numbers in one copy."""
    return max((linear for linear, _ in given.shape.linear_counts()), key=lambda linear: linear.inputs * linear.outputs)


def dequantised_bytes(given: MemoryInput) -> float:
    """The largest packed projection in the compute type: what bitsandbytes multiplies with."""
    if not given.layout.quantization:
        return 0.0
    linear = largest_linear(given)
    return linear.inputs * linear.outputs * given.trainer.compute_bytes / given.layout.tp


def paged_out_bytes(given: MemoryInput, used: float) -> float:
    """Moments that a paged optimizer moves to the host: all or nothing, for the step touches all of them in turn.

    torchtune: 18.9 GiB of a 24 GB card, 37.4 GiB of a 48 GB card, the same job.
    """
    if not given.trainer.optimizer.startswith("paged") or not given.hardware.usable_gib:
        return 0.0
    return moment_bytes(given) if used > given.hardware.usable_gib * GIB else 0.0
