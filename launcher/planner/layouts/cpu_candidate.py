"""A rough speed model for the CPU: within a factor of five until runs on the machine correct it."""

from __future__ import annotations

from launcher.sizing.layout import ParallelLayout
from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.predict import Speed
from launcher.sizing.speed.work import attention_flops, work_of

CORE_GFLOPS = 25.0
"""float32 GFLOP/s of one core in matrix products of a training step, a guess between a laptop's and a server's."""
KERNEL_SECONDS = 12e-6
"""What the host needs to start one operation."""
OPERATIONS = {"layer": 60, "rest": 200}
"""Operations of a forward pass, per layer and beside them, with Transformers' modules."""
PASSES = {"full": 3.0, "lora": 2.3}
"""Forward passes that a forward and a backward pass are worth."""
WIDTH = 5.0
"""Factor to either side of the guess."""


def cpu_speed(shape: ModelShape, layout: ParallelLayout, threads: int, relative: float) -> Speed:
    """Seconds of a step on CPU ranks.

    Args:
        shape: The model's.
        layout: How the step is laid over the ranks.
        threads: Cores of a rank.
        relative: The engine's time over the quickest engine's.
    """
    work, length, packs = work_of(shape), layout.length, layout.micro_batch * layout.accumulation
    trained = PASSES["lora" if layout.adapters else "full"]
    passes = trained + (1 if layout.checkpointing == "full" else 0)
    each = 2 * work.active_parameters + work.layers * attention_flops(work, length / 2)
    products = each * packs * length * passes / (CORE_GFLOPS * 1e9 * threads) * relative
    operations = OPERATIONS["layer"] * work.layers + OPERATIONS["rest"]
    host = operations * passes * layout.accumulation * KERNEL_SECONDS * relative
    seconds = products + host
    per_rank = packs * length / seconds
    return Speed(
        step_seconds=seconds,
        parts={"products": products, "host": host},
        tokens_per_second=per_rank * layout.ranks,
        tokens_per_gpu=per_rank,
        mfu=0.0,
        tflops_per_gpu=per_rank * each * trained / 1e12,
        low=per_rank / WIDTH,
        high=per_rank * WIDTH,
    )
