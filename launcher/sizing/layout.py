"""How a step is laid over ranks: the one type that memory, speed, planner, estimate and benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config import DataConfig, MethodConfig

Engine = Literal["single", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp1", "fsdp2", "megatron"]
"""`zero0` to `zero3` and `fsdp2` are our trainer's; published measurements have the others too."""
Checkpointing = Literal["none", "attention", "selective", "full", "offload"]
Offload = Literal["", "optimizer", "all"]
FIRST_STAGE = {"zero1": 1, "zero2": 2, "zero3": 3, "fsdp1": 3, "fsdp2": 3, "megatron": 1}
"""The ZeRO stage that an engine amounts to; Megatron's distributed optimizer is stage 1."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """LoRA's settings that change memory or speed.

    Attributes:
        r: Rank.
        targets: Projections, as PEFT reads them.
        dora: Whether magnitudes are trained too.
        dropout: Whether its mask and its copy of the input are kept.
        bias: Which biases train: `none`, `all` or `lora_only`.
        saved_modules: Parameters of modules that train whole beside the adapters.
    """

    r: int = MethodConfig.model_fields["r"].default
    targets: str | list[str] = MethodConfig.model_fields["target_modules"].default
    dora: bool = False
    dropout: bool = False
    bias: str = "none"
    saved_modules: int = 0


@dataclass(frozen=True, kw_only=True)
class ParallelLayout:
    """What is trained by which engine, and how one optimizer step is laid over the ranks.

    Attributes:
        engine: What shards and steps.
        nodes: How many machines.
        ranks: GPUs, or CPU processes, on all nodes together.
        micro_batch: Packs in one forward pass of a rank.
        accumulation: Forward passes of a rank in one step.
        length: Tokens of a pack.
        checkpointing: What is computed again in the backward pass: `attention` alone, `selective` (all but the outputs
            of products and attention), or `full`; `offload` keeps the inputs of layers in host memory.
        chunk_tokens: Positions whose logits exist at one time; 0 is the loss kernel's own number.
        adapters: LoRA's settings; `None` trains all weights.
        quantization: How frozen weights are packed: `""`, `nf4`, `nf4_plain` (no double quantisation), `int8`, `gptq4`.
        shard_quantized: Each rank has a part of every packed weight and gathers one projection at a time.
        shard_ranks: Ranks among which model states are split (hybrid sharding); 0 is all.
        sequence_parallel: Ranks that share one sequence.
        offload: What lies in host memory: nothing, the `optimizer`, or `all` (parameters too).
    """

    engine: Engine = "single"
    nodes: int = 1
    ranks: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    length: int = DataConfig.model_fields["max_length"].default
    checkpointing: Checkpointing = "full"
    chunk_tokens: int = 0
    adapters: Adapters | None = None
    quantization: str = ""
    shard_quantized: bool = False
    shard_ranks: int = 0
    sequence_parallel: int = 1
    offload: Offload = ""

    @property
    def tp(self) -> int:
        """Tensor-parallel ranks, which our trainer has not; layouts of published measurements say how many."""
        return 1

    @property
    def pp(self) -> int:
        """Pipeline stages; see `tp`."""
        return 1

    @property
    def ep(self) -> int:
        """Expert-parallel ranks; see `tp`."""
        return 1

    @property
    def virtual_stages(self) -> int:
        """Interleaved pipeline stages of a rank; see `tp`."""
        return 1

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks // self.nodes

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass of one rank."""
        return -(-self.micro_batch * self.length // self.sequence_parallel)

    @property
    def state_ranks(self) -> int:
        """Ranks that hold the same part of the model before anything is sharded."""
        return max(1, self.ranks // (self.tp * self.pp))

    @property
    def data_ranks(self) -> int:
        """Ranks that read different packs."""
        return max(1, self.ranks // (self.tp * self.pp * self.sequence_parallel))

    @property
    def sharded_over(self) -> int:
        """Ranks among which the states of one part of the model are split."""
        return min(self.shard_ranks, self.state_ranks) if self.shard_ranks else self.state_ranks

    def shards_from(self, stage: int) -> int:
        """Over how many ranks is split what ZeRO splits from `stage` on (1 states, 2 gradients, 3 weights).

        Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 5. FSDP splits everything; without resharding
        after the forward pass the whole weights come on top and are counted as gathered.
        """
        return self.sharded_over if FIRST_STAGE.get(self.engine, 0) >= stage else 1

    @property
    def is_fsdp(self) -> bool:
        """Either generation of FSDP."""
        return self.engine in ("fsdp1", "fsdp2")

    @property
    def is_deepspeed(self) -> bool:
        """Any ZeRO stage."""
        return self.engine.startswith("zero")
