"""Weights gathered from their shards, and gradients on their way."""

from __future__ import annotations

from launcher.sizing.memory.settings import BF16, FP32, Job
from launcher.sizing.memory.states import Parameters, largest_linear, packed_bytes

DEEPSPEED_BUCKET = 500_000_000
"""DeepSpeed's default of `reduce_bucket_size` and `allgather_bucket_size`, in elements."""
LIVE = 1_000_000_000
"""DeepSpeed's defaults of `stage3_max_live_parameters` and `stage3_max_reuse_distance`: around the turn from forward to
backward, so many parameters stay gathered."""
PREFETCH = 50_000_000
"""DeepSpeed's default of `stage3_prefetch_bucket_size`, in elements."""


def block_bytes(job: Job) -> float:
    """One decoder layer whole, in the compute type; packed weights count as they are stored, if they are sharded."""
    largest = job.shape.largest_layer
    if not job.quantization:
        return largest.num_parameters * BF16 / job.tp
    experts = sum(linear.weights for linear in largest.linears if linear.is_expert)
    packed = largest.linear_weights - (0 if job.regime.quantises_experts else experts)
    stored = 0.0 if job.regime.quantised_on_every_rank else packed_bytes(packed, job.quantization)
    return ((largest.num_parameters - packed) * BF16 + stored) / job.tp


def root_bytes(job: Job) -> float:
    """Embeddings, final norm and head whole: FSDP's root group is not resharded after the forward pass.

    Where embeddings and head are groups of their own, only the larger is whole at one time.
    """
    tensors = [tensor.num_parameters for tensor in job.shape.root]
    return (max(tensors) if job.regime.splits_root else sum(tensors)) * BF16 / job.tp


def gathered_bytes(job: Job, blocks: int) -> float:
    """Unsharded weights while `blocks` layers are gathered.

    FSDP: the layer at work, the one that is fetched ahead, and the root group. Without resharding, everything.
    ZeRO-3: the layer at work and a prefetch bucket, and the embedding or head, whichever is in use. FSDP2 on one
    rank still makes its copy in the compute type.
    """
    return packed_ahead_bytes(job) + _engine_gathered(job, blocks)


def packed_ahead_bytes(job: Job) -> float:
    """Packed projections that are whole at one time where they are sharded on their own: at work, and fetched ahead."""
    if not job.shard_packed or not job.quantization or job.sharded_over == 1:
        return 0.0
    return 2 * packed_bytes(largest_linear(job).weights, job.quantization) / job.tp


def _engine_gathered(job: Job, blocks: int) -> float:
    p = Parameters(job)
    alone = job.sharded_over == 1
    if job.engine == "zero3" and not alone:
        ahead = min(PREFETCH, p.base) if job.regime.reduce_bucket >= 0 else job.shape.hidden_size**2
        working = blocks * block_bytes(job) + BF16 * ahead + job.shape.vocab_size * job.shape.hidden_size * BF16
        return max(working, float(BF16 * min(LIVE, p.base - p.quantised)))
    if not job.is_fsdp or (alone and not _casts_alone(job)):
        return 0.0
    if not job.reshard and not job.adapters:
        return float(p.base * BF16)
    return blocks * block_bytes(job) + root_bytes(job)


def _casts_alone(job: Job) -> bool:
    return job.engine == "fsdp2" and not job.adapters and job.regime.trained_bytes == FP32


def reduce_buffer_bytes(job: Job) -> float:
    """Gradients between backward and their shard.

    FSDP reduces one layer at a time in `reduce_bytes`. DeepSpeed fills buckets, two of them when communication
    overlaps; Hugging Face's `auto` sets them to the hidden size squared. DDP copies gradients into its buckets.
    """
    p, regime = Parameters(job), job.regime
    if job.sharded_over == 1 and job.data_ranks == 1:
        return 0.0
    if job.is_fsdp:
        share = p.trained / max(1, job.shape.num_layers) if job.adapters else job.shape.layer_parameters / job.tp
        return share * regime.reduce_bytes
    if job.is_deepspeed:
        asked = job.shape.hidden_size**2 if regime.reduce_bucket < 0 else regime.reduce_bucket or DEEPSPEED_BUCKET
        return 2 * min(asked, p.trained) * regime.reduce_bytes
    return float(p.trained * p.trained_bytes) if job.engine == "ddp" else 0.0
