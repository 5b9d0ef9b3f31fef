"""What the time of a step depends on, and how layouts and trainers are told apart by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.sizing.gpus import Gpu
from launcher.sizing.layout import ParallelLayout
from launcher.sizing.speed.kernels import FITTED, Fitted
from launcher.sizing.speed.work import Work
from launcher.sizing.trainer_model import BF16, FP32, TrainerModel

AGAIN = {"none": 0.0, "attention": 0.0, "selective": 0.5, "full": 1.0, "offload": 1.0}
"""How much of a forward pass runs once more."""
SHARDINGS = {"single": "none", "ddp": "ddp", "zero0": "ddp", "fsdp1": "fsdp", "fsdp2": "fsdp", "megatron": "zero1"}
"""What engines move; those that are not named move what they are called after."""
SAME_KERNEL = {"adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "adamw_8bit", "lion": "lion", "adafactor": "lion"}
MLP_WORDS = ("mlp", "gate", "up_proj", "down", "fc", "w1", "all-linear")


@dataclass(frozen=True, kw_only=True)
class SpeedInput:
    """What the time of a step depends on.

    Attributes:
        work: The model's dimensions.
        layout: How the step is laid over the ranks.
        gpu: What a rank runs on.
        node_gpus: GPUs of one node that the job has.
        trainer: Kernels, software and numbers.
        document_length: Keys that lie in a token's own document, on average (sum of squared lengths over tokens); 0
            means that each sequence is one document.
        fill: Share of positions that are no padding.
        fitted: Rates that no data sheet gives.
    """

    work: Work
    layout: ParallelLayout
    gpu: Gpu
    node_gpus: int
    trainer: TrainerModel
    document_length: float = 0.0
    fill: float = 1.0
    fitted: Fitted = field(default=FITTED, repr=False)

    @property
    def tokens(self) -> float:
        """Positions of one forward pass on one rank."""
        return self.layout.micro_batch * self.layout.length / self.layout.sequence_parallel

    @property
    def keys(self) -> float:
        """Keys of a token's own document."""
        return min(self.document_length, self.layout.length) or self.layout.length

    @property
    def step_tokens(self) -> float:
        """Tokens of one step on all ranks, padding left out."""
        layout = self.layout
        return layout.data_ranks * layout.accumulation * layout.micro_batch * layout.length * self.fill

    @property
    def trains_all(self) -> bool:
        """Whether all weights train; adapters alone do otherwise."""
        return self.layout.adapters is None


def attention_kernel(trainer: TrainerModel) -> str:
    """The kernel that speed tells apart; torch's own has no fused form for float32, so its scores are written out."""
    if trainer.attention == "sdpa":
        return "eager" if trainer.compute_bytes == FP32 else "flash"
    return trainer.attention


def stack_of(trainer: TrainerModel) -> str:
    """The software that runs: torch.compile and fused norms replace Transformers' modules one kernel at a time."""
    if trainer.compiled:
        return "compiled"
    return "fused" if trainer.stack == "hf" and trainer.fused_norms else trainer.stack


def adapted_projections(layout: ParallelLayout) -> str:
    """Layer projections with adapters: `none`, `attention` or `all`."""
    if layout.adapters is None or not layout.adapters.targets:
        return "none"
    targets = layout.adapters.targets
    named = [targets] if isinstance(targets, str) else targets
    return "all" if any(word in target for word in MLP_WORDS for target in named) else "attention"


def optimizer_kernel(trainer: TrainerModel) -> str:
    """A key of `OPTIMIZER_BYTES`."""
    if trainer.in_backward:
        return "in_backward"
    if trainer.optimizer in SAME_KERNEL:
        return SAME_KERNEL[trainer.optimizer]
    if not trainer.foreach:
        return "adamw_fused"
    return "adamw_bf16" if trainer.trained_bytes == BF16 and not trainer.master else "adamw"
