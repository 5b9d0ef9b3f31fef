"""What one rank needs in memory where it trains on the CPU or in float32, by component and by phase.

GPUs in bfloat16 are predicted by `launcher.sizing.memory`, which is held against published measurements.

The peak of a rank is a maximum over the phases of a step, never a sum of everything: the optimizer's state is
there throughout, activations are gone when the optimizer steps, and the logits of a chunk never meet a
layer's recomputed activations. So each phase lists the components that are alive in it, and the phase that
needs most is named.

Symbols in the formulas: N parameters of the model, P trainable ones, n ranks, T tokens in one forward pass of
a rank, h hidden size, q and k the widths of all query and key heads, f the MLP's width, V the vocabulary, L
layers, c bytes of the compute type. Sources are named where a formula stands: Korthikanti et al. 2022 (arXiv
2205.05198) for activations, Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054) for the partitioning of model
states, and counts of what autograd keeps in Transformers' Llama layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.prediction import Prediction
from launcher.sizing.shape import Linear, ModelShape, lora_parameters, targeted
from rundir.quantities import GIB

NF4_BLOCK = 64
"""Numbers of a weight that share a scale in bitsandbytes' NF4."""
SCALES_BLOCK = 256
"""Scales that share a float32 scale of their own, when they are quantised to bytes as well."""
FP32_BYTES = 4
MOMENTS_BYTES = 2 * FP32_BYTES
STAGE3_SUBGROUP = 1_000_000_000
"""DeepSpeed's `sub_group_size`: ZeRO-3 steps through its partition in pieces of so many elements."""
FLAT_BUCKET = 200_000_000
"""`reduce_bucket_size` in elements, as the trainer configures DeepSpeed."""

CPU_RUNTIME_BYTES = int(0.9 * GIB)
"""Python with torch, transformers and DeepSpeed imported: resident memory of one process."""
CUDA_CONTEXT_BYTES = int(0.6 * GIB)
"""CUDA context, loaded kernels and the cuBLAS workspace."""
NCCL_BYTES = int(1.5 * GIB)
"""What communicators take once there is more than one rank."""
FRAGMENTATION_SHARE = 0.06
"""Share of what torch allocates that the caching allocator cannot use again at once."""

PHASES: dict[str, tuple[str, ...]] = {
    "forward": ("activations", "gathered", "dequantised"),
    "loss": ("kept_activations", "loss_chunk", "gathered"),
    "backward": ("activations", "gathered", "dequantised", "reduce_buffers", "lm_head_gradient"),
    "step": ("step_temporary",),
}
"""What is alive in each phase, beside the model states."""

STATES = ("weights", "gradients", "moments", "master_weights", "runtime")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is laid over the ranks: everything that the memory of one rank depends on, beside the shape.

    Attributes:
        engine: `zero0` to `zero3`, or `fsdp2`.
        world_size: Number of ranks.
        device: `cpu` or `cuda`.
        compute_bytes: Bytes of one number in the forward pass: 2 for bfloat16, 4 for float32.
        tokens: Tokens in one forward pass of one rank.
        checkpointing: Whether activations are computed again in the backward pass.
        chunk_tokens: Supervised positions whose logits exist at one time.
        lora: Settings of the adapters, `None` for a full fine-tune.
        shard_quantized: Whether packed weights are split over the ranks.
    """

    engine: str
    world_size: int
    device: str
    compute_bytes: int
    tokens: int
    checkpointing: bool
    chunk_tokens: int
    lora: LoraLayout | None = None
    shard_quantized: bool = False


@dataclass(frozen=True, kw_only=True)
class LoraLayout:
    """The settings of LoRA that change memory, those of a quantised base among them."""

    r: int
    target_modules: str | list[str]
    use_dora: bool = False
    quantization: str | None = None
    double_quantization: bool = True
    bias: str = "none"
    saved_modules: int = 0
    """Parameters of the modules that train whole beside the adapters."""


def predict(shape: ModelShape, layout: Layout) -> Prediction:
    """The memory of one rank that trains a model of this shape in this layout."""
    adapters = adapter_parameters(shape, layout)
    trainable = adapters if layout.lora else shape.num_parameters
    components = {
        **_model_states(shape, layout, trainable),
        **_activations(shape, layout),
        **_loss(shape, layout),
        **_transfer_buffers(shape, layout, trainable),
        "dequantised": _dequantised(shape, layout),
        "runtime": _runtime(layout),
    }
    components["fragmentation"] = _fragmentation(components, layout)
    return Prediction(
        num_parameters=shape.num_parameters + adapters,
        num_trainable=trainable,
        parts={phase: {name: components[name] for name in alive(phase)} for phase in PHASES},
    )


def alive(phase: str) -> tuple[str, ...]:
    """The components that are there in a phase."""
    return (*STATES, *PHASES[phase], "fragmentation")


def adapter_parameters(shape: ModelShape, layout: Layout) -> int:
    """Parameters that train beside a frozen base: adapters, biases, whole modules; none in a full fine-tune."""
    if layout.lora is None:
        return 0
    lora = layout.lora
    adapters = lora_parameters(
        shape, r=lora.r, target_modules=lora.target_modules, use_dora=lora.use_dora, bias=lora.bias
    )
    return adapters + lora.saved_modules


def quantised_parameters(shape: ModelShape, layout: Layout) -> int:
    """Numbers that are held quantised: the weights, not the biases, of all projections of the layers."""
    if layout.lora is None or layout.lora.quantization is None:
        return 0
    return shape.num_layers * sum(linear.inputs * linear.outputs for linear in shape.linears)


def quantised_bytes(shape: ModelShape, layout: Layout) -> int:
    """Bytes of the quantised weights with their scales, the same on every rank."""
    if not quantised_parameters(shape, layout):
        return 0
    return shape.num_layers * sum(_quantised_linear_bytes(linear, layout) for linear in shape.linears)


def _quantised_linear_bytes(linear: Linear, layout: Layout) -> int:
    """Packed numbers and scales of one projection, as bitsandbytes holds them.

    NF4 (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3): 4 bits a number, and per block of 64 a scale
    of 32 bits, 0.5 bits a number. Double quantisation makes the scale a byte, and adds 32 bits per 256 scales:
    8/64 + 32/(64 * 256) = 0.127 bits a number. int8 (Dettmers et al. 2022, arXiv 2208.07339): a byte a number and
    a float32 scale per row.
    """
    assert layout.lora is not None
    numbers = linear.inputs * linear.outputs
    if layout.lora.quantization == "int8":
        return numbers + FP32_BYTES * linear.outputs
    blocks = -(-numbers // NF4_BLOCK)
    if not layout.lora.double_quantization:
        return numbers // 2 + FP32_BYTES * blocks
    return numbers // 2 + blocks + FP32_BYTES * -(-blocks // SCALES_BLOCK)


def _dequantised(shape: ModelShape, layout: Layout) -> int:
    """The largest projection in the compute type: what bitsandbytes multiplies with, forward and backward."""
    if not quantised_parameters(shape, layout):
        return 0
    return max(linear.inputs * linear.outputs for linear in shape.linears) * layout.compute_bytes


def _shards(layout: Layout, first_stage: int) -> int:
    """Over how many ranks ZeRO splits what it splits from `first_stage` on; FSDP2 splits everything."""
    stage = 3 if layout.engine == "fsdp2" else int(layout.engine.removeprefix("zero"))
    return layout.world_size if stage >= first_stage else 1


def _model_states(shape: ModelShape, layout: Layout, trainable: int) -> dict[str, int]:
    """Weights, gradients, moments, master weights, and what the optimizer step takes for a moment.

    ZeRO (Rajbhandari et al. 2020, section 5): stage 1 splits optimizer state, 2 gradients too, 3 parameters
    too. FSDP2 keeps float32 shards, which are the master weights: 4 + 4 + 8 bytes over n. DeepSpeed keeps
    weights of the compute type, a separate float32 master over n, and copies its gradients to float32 when it
    steps. In float32, ZeRO-0 trains the weights themselves. No engine splits quantised weights: they lie whole on
    every rank, or are split on their own.
    """
    quantised = quantised_parameters(shape, layout)
    frozen = shape.num_parameters - quantised if layout.lora else 0
    trained_bytes = FP32_BYTES if layout.lora or layout.engine == "fsdp2" else layout.compute_bytes
    weights = frozen * layout.compute_bytes + trainable * trained_bytes
    split = trainable // _shards(layout, 1)
    return {
        "weights": weights // _shards(layout, 3) + _packed_held(shape, layout),
        "gradients": trainable * trained_bytes // _shards(layout, 2),
        "moments": split * MOMENTS_BYTES,
        "master_weights": split * FP32_BYTES if _has_master(layout, trained_bytes) else 0,
        "step_temporary": _step_temporary(layout, split),
    }


def _packed_held(shape: ModelShape, layout: Layout) -> int:
    """Packed weights of one rank: all, or its part and two projections that are whole at one time."""
    whole = quantised_bytes(shape, layout)
    if not whole or not layout.shard_quantized:
        return whole
    return whole // layout.world_size + 2 * max(_quantised_linear_bytes(linear, layout) for linear in shape.linears)


def _has_master(layout: Layout, trained_bytes: int) -> bool:
    if layout.engine == "fsdp2":
        return False
    return layout.engine != "zero0" or trained_bytes < FP32_BYTES


def _step_temporary(layout: Layout, split: int) -> int:
    """DeepSpeed's float32 gradients of the partition; fused AdamW itself needs no lists of temporaries."""
    if layout.engine == "fsdp2" or (layout.engine == "zero0" and layout.compute_bytes == FP32_BYTES):
        return 0
    return FP32_BYTES * (min(split, STAGE3_SUBGROUP) if layout.engine == "zero3" else split)


def _layer_activation_bytes(shape: ModelShape, layout: Layout) -> int:
    """What autograd keeps of one layer: c T (12 h + 3 q + k + 3 f).

    Counted on Transformers' Llama layer with attention that keeps no score matrix: two RMSNorms of four
    copies each (a float32 one counts twice), query, key, value and output, gate, activation and product of
    the MLP, and the residual stream; nine published models fit it (Llama-3.1-8B: 28 copies of the hidden
    state). LoRA adds a float32 copy of each adapted projection's input, because the adapters are float32.
    """
    widths = 12 * shape.hidden_size + 3 * shape.query_size + shape.kv_size + 3 * shape.intermediate_size
    return layout.tokens * (layout.compute_bytes * widths + _adapter_input_bytes(shape, layout))


def _adapter_input_bytes(shape: ModelShape, layout: Layout) -> int:
    """Bytes per token and layer that adapters keep: their input cast to float32, and the low-rank product."""
    if layout.lora is None:
        return 0
    chosen = [linear for linear, count in targeted(shape, layout.lora.target_modules) if count > 1]
    casts = sum(linear.inputs for linear in chosen) if layout.compute_bytes < FP32_BYTES else 0
    return FP32_BYTES * (casts + layout.lora.r * len(chosen))


def _activations(shape: ModelShape, layout: Layout) -> dict[str, int]:
    """Without checkpointing L layers; with it one hidden state a layer, and one layer that is computed again.

    Korthikanti et al. 2022, section 5: full recomputation keeps the layers' inputs only.
    """
    layer = _layer_activation_bytes(shape, layout)
    if not layout.checkpointing:
        everything = shape.num_layers * layer
        return {"kept_activations": everything, "activations": everything}
    kept = shape.num_layers * layout.tokens * shape.hidden_size * layout.compute_bytes
    return {"kept_activations": kept, "activations": kept + layer}


def _loss(shape: ModelShape, layout: Layout) -> dict[str, int]:
    """Chunked linear cross-entropy: float32 logits and their gradient for one chunk, never for all T tokens.

    The compute type's own copy of the logits comes on top when it is smaller than float32. The gradient of
    the hidden states is T h c. A trained output head gathers its gradient over the chunks in float32.
    """
    chunk = min(layout.chunk_tokens, layout.tokens)
    logits = 2 * FP32_BYTES + (layout.compute_bytes if layout.compute_bytes < FP32_BYTES else 0)
    hidden = layout.tokens * shape.hidden_size * layout.compute_bytes
    head = 0 if layout.lora else shape.vocab_size * shape.hidden_size * FP32_BYTES
    return {"loss_chunk": chunk * shape.vocab_size * logits + hidden + head, "lm_head_gradient": head}


def _transfer_buffers(shape: ModelShape, layout: Layout, trainable: int) -> dict[str, int]:
    """Whole layers gathered from their shards, and buckets on their way to be reduced.

    FSDP2 and ZeRO-3 hold the layer in use, the one that is fetched ahead, and the root group (embeddings,
    final norm, head), all of the compute type; FSDP2 reduces a layer's gradients in float32. ZeRO-1 and 2
    reduce flat buckets of at most 2e8 elements. One rank alone gathers nothing but FSDP2's copy in the
    compute type.
    """
    if _shards(layout, 3) == 1 and not (layout.engine == "fsdp2" and layout.compute_bytes < FP32_BYTES):
        bucket = min(trainable, FLAT_BUCKET) * layout.compute_bytes if layout.world_size > 1 else 0
        return {"gathered": 0, "reduce_buffers": bucket}
    whole_everywhere = quantised_parameters(shape, layout) // shape.num_layers
    layer = shape.layer_parameters - whole_everywhere
    gathered = (2 * layer + shape.root_parameters) * layout.compute_bytes
    layer_trainable = trainable // shape.num_layers if layout.lora else shape.layer_parameters
    return {"gathered": gathered, "reduce_buffers": layer_trainable * FP32_BYTES}


def _runtime(layout: Layout) -> int:
    if layout.device == "cpu":
        return CPU_RUNTIME_BYTES
    return CUDA_CONTEXT_BYTES + (NCCL_BYTES if layout.world_size > 1 else 0)


def _fragmentation(components: dict[str, int], layout: Layout) -> int:
    """Only CUDA's caching allocator fragments noticeably; never more than the busiest phase."""
    if layout.device == "cpu":
        return 0
    busiest = max(sum(components[name] for name in names) for names in PHASES.values())
    states = sum(components[name] for name in STATES if name != "runtime")
    return int(FRAGMENTATION_SHARE * (busiest + states))
