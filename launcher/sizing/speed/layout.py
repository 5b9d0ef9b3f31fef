"""How a step is laid over GPUs: everything that its time depends on, beside the model's shape."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.errors import JobError
from launcher.sizing.gpus import Gpu

LONGEST = 16_777_216


@dataclass(frozen=True, kw_only=True)
class SpeedLayout:
    """How a step is laid over GPUs: everything its time depends on, beside the model's shape.

    Attributes:
        gpu: The GPU.
        num_gpus: How many.
        gpus_per_node: How many in one node; 0 takes the catalogue's.
        trained: Whether all weights train; adapters alone do otherwise.
        quantization: `nf4`, `gptq4`, `int8` or `None`.
        packed: Where packed weights are: `engine` shards them like others, they are `whole` on every rank, or
            `sharded` on their own and gathered for every product.
        micro_batch: Sequences (packs) of one forward pass of a data-parallel rank.
        length: Tokens of one sequence or pack.
        accumulation: Forward passes of a rank in one optimizer step.
        attended: Keys that lie in a token's own document, on average (sum of squared lengths over tokens); 0
            means that each sequence is one document.
        fill: Share of positions that are no padding.
        sharding: `none`, `ddp`, `zero1`, `zero2`, `zero3` or `fsdp`.
        shard_ranks: Ranks that share one copy (hybrid sharding); 0 means all data-parallel ranks.
        tp: Tensor-parallel ranks.
        pp: Pipeline stages.
        virtual_stages: Interleaved stages per rank.
        cp: Context-parallel ranks.
        ep: Expert-parallel ranks.
        recompute: `none`, `attention`, `selective` (half of the products) or `full`.
        attention: Kernel: `flash`, `flash1` (before FlashAttention-2), `cudnn`, or `eager`, which writes its scores.
        stack: Software: `hf`, `fused`, `unsloth`, `compiled` or `megatron`.
        expert_loop: Whether a mixture's experts run one after the other, as Transformers before 5 had them.
        number_format: Of the linear layers: `bf16`, `fp16`, `fp32`, `tf32`, `fp8`, `fp4`.
        stream: Width of the residual stream, a key of `WIDE_STREAM`; k-bit preparation makes it float32, and the
            output head with it.
        adapted: Layer projections with adapters: `none`, `attention` or `all`.
        lora_r: Their rank.
        optimizer: Key of `OPTIMIZER_BYTES`.
        gradient_bytes: Bytes of a gradient on the wire.
        offload: `none`, `optimizer` or `parameters`.
    """

    gpu: Gpu
    num_gpus: int = 1
    gpus_per_node: int = 0
    trained: bool = True
    quantization: str | None = None
    packed: str = "engine"
    micro_batch: int = 1
    length: int = 2048
    accumulation: int = 1
    attended: float = 0.0
    fill: float = 1.0
    sharding: str = "none"
    shard_ranks: int = 0
    tp: int = 1
    pp: int = 1
    virtual_stages: int = 1
    cp: int = 1
    ep: int = 1
    recompute: str = "none"
    attention: str = "flash"
    stack: str = "hf"
    expert_loop: bool = False
    number_format: str = "bf16"
    stream: str = "half"
    adapted: str = "none"
    lora_r: int = 16
    optimizer: str = "adamw_fused"
    gradient_bytes: int = 2
    offload: str = "none"

    @property
    def data_ranks(self) -> int:
        """Data-parallel ranks."""
        return max(1, self.num_gpus // (self.tp * self.pp * self.cp))

    @property
    def node_gpus(self) -> int:
        """GPUs of one node."""
        return min(self.gpus_per_node or self.gpu.per_node, self.num_gpus)

    @property
    def tokens(self) -> float:
        """Positions of one forward pass on one rank."""
        return self.micro_batch * self.length / self.cp

    @property
    def keys(self) -> float:
        """Keys of a token's own document."""
        return self.attended or self.length


def check_layout(layout: SpeedLayout) -> None:
    """Whether the layout can exist at all.

    Raises:
        JobError: it cannot; the nearest possibility is named.
    """
    model_ranks = layout.tp * layout.pp * layout.cp
    if layout.num_gpus % model_ranks:
        near = max(model_ranks, layout.num_gpus // model_ranks * model_ranks)
        raise JobError(f"{layout.num_gpus} GPUs are no multiple of tp x pp x cp = {model_ranks}", f"Take {near} GPUs.")
    if min(layout.micro_batch, layout.length, layout.accumulation) < 1:
        raise JobError("micro-batch, length and accumulation must be at least 1")
    if layout.length > LONGEST:
        raise JobError(f"length {layout.length:,} is beyond reason", f"At most {LONGEST:,} tokens.")
    if not 0 < layout.fill <= 1:
        raise JobError(f"fill must be above 0 and at most 1 (got {layout.fill:g})")
