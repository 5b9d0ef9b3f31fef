"""Weights gathered from their shards, and gradients on their way."""

from __future__ import annotations

from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.memory.states import Parameters, largest_linear, packed_bytes

DEEPSPEED_BUCKET = 500_000_000
"""DeepSpeed's default of `reduce_bucket_size` and `allgather_bucket_size`, in elements."""
LIVE = 1_000_000_000
"""DeepSpeed's defaults of `stage3_max_live_parameters` and `stage3_max_reuse_distance`: around the turn from forward to
backward, so many parameters stay gathered."""
PREFETCH = 50_000_000
"""DeepSpeed's default of `stage3_prefetch_bucket_size`, in elements."""


def block_bytes(given: MemoryInput) -> float:
    """One decoder layer whole, in the compute type; packed weights count as they are stored, if they are sharded."""
    largest, layout, trainer = given.shape.largest_layer, given.layout, given.trainer
    if not layout.quantization:
        return largest.num_parameters * trainer.compute_bytes / layout.tp
    experts = sum(linear.weights for linear in largest.linears if linear.is_expert)
    packed = largest.linear_weights - (0 if trainer.quantises_experts else experts)
    stored = 0.0 if trainer.quantised_on_every_rank else packed_bytes(packed, layout.quantization)
    return ((largest.num_parameters - packed) * trainer.compute_bytes + stored) / layout.tp


def root_bytes(given: MemoryInput) -> float:
    """Embeddings, final norm and head whole: FSDP's root group is not resharded after the forward pass.

    Where embeddings and head are groups of their own, only the larger is whole at one time.
    """
    tensors = [tensor.num_parameters for tensor in given.shape.root]
    whole = max(tensors) if given.trainer.splits_root else sum(tensors)
    return whole * given.trainer.compute_bytes / given.layout.tp


def gathered_bytes(given: MemoryInput, blocks: int) -> float:
    """Unsharded weights while `blocks` layers are gathered.

    FSDP: the layer at work, the one that is fetched ahead, and the root group. Without resharding, everything.
    ZeRO-3: the layer at work and a prefetch bucket, and the embedding or head, whichever is in use. FSDP2 on one
    rank still makes its copy in the compute type.
    """
    return packed_ahead_bytes(given) + _engine_gathered(given, blocks)


def packed_ahead_bytes(given: MemoryInput) -> float:
    """Packed projections that are whole at one time where they are sharded on their own: at work, and fetched ahead."""
    layout = given.layout
    if not layout.shard_quantized or not layout.quantization or layout.sharded_over == 1:
        return 0.0
    return 2 * packed_bytes(largest_linear(given).weights, layout.quantization) / layout.tp


def _engine_gathered(given: MemoryInput, blocks: int) -> float:
    p, shape, layout, trainer = Parameters(given), given.shape, given.layout, given.trainer
    each, alone = trainer.compute_bytes, layout.sharded_over == 1
    if layout.engine == "zero3" and not alone:
        ahead = min(PREFETCH, p.base) if trainer.reduce_bucket >= 0 else shape.hidden_size**2
        working = blocks * block_bytes(given) + each * ahead + shape.vocab_size * shape.hidden_size * each
        return max(working, float(each * min(LIVE, p.base - p.quantised)))
    casts_alone = layout.engine == "fsdp2" and not layout.adapters and trainer.trained_bytes > each
    if not layout.is_fsdp or (alone and not casts_alone):
        return 0.0
    if not trainer.reshards and not layout.adapters:
        return float(p.base * each)
    return blocks * block_bytes(given) + root_bytes(given)


def reduce_buffer_bytes(given: MemoryInput) -> float:
    """Gradients between backward and their shard.

    FSDP reduces one layer at a time in `reduce_bytes`. DeepSpeed fills buckets, two of them when communication
    overlaps; Hugging Face's `auto` sets them to the hidden size squared. DDP copies gradients into its buckets.
    """
    p, shape, layout, trainer = Parameters(given), given.shape, given.layout, given.trainer
    if layout.sharded_over == 1 and layout.state_ranks == 1:
        return 0.0
    if layout.is_fsdp:
        share = p.trained / max(1, shape.num_layers) if layout.adapters else shape.layer_parameters / layout.tp
        return share * trainer.reduce_bytes
    if layout.is_deepspeed:
        asked = shape.hidden_size**2 if trainer.reduce_bucket < 0 else trainer.reduce_bucket or DEEPSPEED_BUCKET
        return 2 * min(asked, p.trained) * trainer.reduce_bytes
    return float(p.trained * p.trained_bytes) if layout.engine == "ddp" else 0.0
