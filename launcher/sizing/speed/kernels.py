"""How quickly kernels run: rates of GPUs and habits of software stacks. Every fitted number stands here.

Counted numbers come from reading what the kernels move; fitted ones are in `Fitted`, each with its meaning, and
`docs/accuracy-speed.md` says what they become when any one source of measurements is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.sizing.gpus import Gpu
from launcher.sizing.speed.work import Work


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a software stack does around the matrix products, in bytes and operations.

    Attributes:
        norm: Bytes moved per element of h by one norm, forward.
        residual: Bytes per element of h by one addition to the residual stream.
        rotary: Bytes per element of q and k.
        activation: Bytes per element of f by a gated activation; an ungated one moves 4 where that is less.
        logit: Bytes per logit of the loss, forward and backward.
        operations: Kernels that the host starts per layer, forward.
        adapter: Bytes per input and output element of an adapted projection, forward.
        overlap: Share of collectives that runs beside compute where it can.
    """

    norm: float
    residual: float
    rotary: float
    activation: float
    logit: float
    operations: int
    adapter: float
    overlap: float


STACKS = {
    "hf": Stack(norm=26, residual=6, rotary=16, activation=10, logit=40, operations=34, adapter=12, overlap=0.7),
    "fused": Stack(norm=4, residual=6, rotary=4, activation=6, logit=12, operations=20, adapter=12, overlap=0.7),
    "unsloth": Stack(norm=4, residual=6, rotary=4, activation=6, logit=12, operations=16, adapter=4, overlap=0.7),
    "compiled": Stack(norm=5, residual=3, rotary=4, activation=6, logit=16, operations=9, adapter=5, overlap=0.8),
    "megatron": Stack(norm=4, residual=4, rotary=4, activation=6, logit=10, operations=14, adapter=4, overlap=0.9),
}
"""`hf`: Transformers' modules one kernel at a time, norms and loss through float32 (a norm: cast 2+4, square 4+4,
scale 4+4, cast back 4+2, bytes). `fused`: Liger, Triton kernels or CUDA layer norm. `unsloth`: the same with fused
adapters. `compiled`: torch.compile
joins neighbours. `megatron`: Megatron-LM with Transformer Engine."""

BACKWARD_TRAFFIC = 2.0
"""An elementwise kernel's backward reads the saved input and the gradient and writes one: about twice forward."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Numbers that no data sheet gives, fitted to published measurements.

    Attributes:
        sustained: Share of the reached matrix rate (MAMF) that holds through training, by generation of GPU:
            power limits and shapes that are not the best one.
        memory: Share of HBM bandwidth that streaming kernels reach.
        flash: Rate of flash attention as a share of the matrix rate, by generation.
        first_flash: Speed of attention kernels before FlashAttention-2, as a share of its.
        cudnn: The same for the fused attention of Transformer Engine.
        eager_bytes: Bytes per score of attention that writes its scores.
        host_us: Microseconds of the host per kernel that it starts.
        link: Share of a link's bandwidth that NCCL reaches.
        network: The same for the network between nodes.
        crowd: Share of compute lost to collectives, stragglers and the sharding engine once there are more ranks.
        straggle: What each doubling of the nodes adds to that: the step waits for the slowest.
        expert: Rate of grouped expert products as a share of dense ones.
        routing: Kernels and synchronisations that routing to grouped experts starts per layer, forward.
        low_precision: Bytes per input and output element that casting to 8 or 4 bits moves.
        low_rate: Reached rate of 8-bit products against the catalogue's, most of which is no measurement.
        dequantise: Share of HBM bandwidth that unpacking 4-bit weights reaches.
        unit_ms: Milliseconds of one pass through a sharded unit of its own; PEFT makes each adapter matrix one.
    """

    sustained: dict[str, float] = field(
        default_factory=lambda: {
            "ampere": 0.91,
            "hopper": 0.86,
            "blackwell": 0.8,
            "turing": 0.7,
            "ada": 1.0,
            "cdna": 0.56,
        }
    )
    memory: float = 0.79
    flash: dict[str, float] = field(
        default_factory=lambda: {
            "ampere": 0.65,
            "hopper": 0.42,
            "blackwell": 0.256,
            "turing": 0.29,
            "ada": 0.6,
            "cdna": 0.35,
        }
    )
    first_flash: float = 0.65
    cudnn: float = 0.81
    eager_bytes: float = 26.0
    host_us: float = 10.5
    link: float = 0.7
    network: float = 0.7
    crowd: float = 0.032
    straggle: float = 0.009
    expert: float = 0.81
    routing: float = 108.0
    low_precision: float = 3.5
    low_rate: float = 1.26
    dequantise: float = 0.35
    unit_ms: float = 0.37


FITTED = Fitted()

GENERATIONS = {
    "ampere": ("A100", "A800", "A40", "A6000", "A10", "RTX3"),
    "hopper": ("H100", "H200", "H800"),
    "blackwell": ("B200", "GB200", "B300", "GB300", "RTX5"),
    "turing": ("T4", "V100"),
    "cdna": ("MI",),
}


def generation(gpu: Gpu) -> str:
    """The family whose shares a GPU takes; the rest is Ada."""
    for name, prefixes in GENERATIONS.items():
        if gpu.name.startswith(prefixes):
            return name
    return "ada"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one GPU does in one second, in the units of the counts.

    Attributes:
        dense: FLOP/s of the linear layers.
        half: FLOP/s of 16-bit products: attention and the output head, whatever the layers run in.
        single: FLOP/s of float32 products.
        flash: FLOP/s of fused attention.
        memory: Bytes per second of streaming kernels.
    """

    dense: float
    half: float
    single: float
    flash: float
    memory: float


def rates_of(gpu: Gpu, number_format: str, attention: str, fitted: Fitted = FITTED) -> Rates:
    """Rates of a GPU in a number format (`bf16`, `fp16`, `fp32`, `tf32`, `fp8`, `fp4`) with an attention kernel."""
    family = generation(gpu)
    tera = 1e12 * fitted.sustained[family]
    half = gpu.matmul[gpu.half] * tera
    single = gpu.tflops.get("fp32", gpu.tflops[gpu.half] / 8) * tera
    flash = fitted.cudnn if attention == "cudnn" else fitted.flash[family]
    flash *= fitted.first_flash if attention == "flash1" else 1.0
    return Rates(
        dense=_dense(gpu, number_format, half, tera, fitted.low_rate),
        half=half,
        single=single,
        flash=half * flash,
        memory=gpu.hbm_gb_s * 1e9 * fitted.memory,
    )


def _dense(gpu: Gpu, number_format: str, half: float, tera: float, low_rate: float) -> float:
    if number_format in ("bf16", "fp16"):
        return half
    if number_format in ("fp8", "fp4"):
        low = gpu.matmul.get(number_format) or gpu.matmul.get("fp8") or gpu.matmul[gpu.half]
        return low * tera * (low_rate if low > gpu.matmul[gpu.half] else 1.0)
    reach = gpu.matmul[gpu.half] / gpu.tflops[gpu.half]
    return gpu.tflops.get(number_format, gpu.tflops[gpu.half]) * reach * tera


def product_seconds(rate: float, memory: float, tokens: float, inputs: float, outputs: float) -> float:
    """Seconds of one product of `tokens` x `inputs` with `inputs` x `outputs`, 16-bit operands.

    Compute and the reading and writing of operands, added: a soft roofline. It gives the low efficiency of few
    tokens (weights are read for little work) and of narrow layers without a constant of its own.
    """
    traffic = 2 * (tokens * (inputs + outputs) + inputs * outputs)
    return 2 * tokens * inputs * outputs / rate + traffic / memory


WIDE_STREAM = {"half": (1.0, 1.0), "norms": (1.5, 1.0), "full": (1.8, 1.8)}
"""What a float32 residual stream multiplies traffic by: that of norms and residual, and all the rest. Under autocast
(`norms`) the products and what follows them stay 16 bits; without it (`full`), bitsandbytes casts its results back to
the float32 of its inputs, and everything between the products is twice as wide."""
FUSED_NORM = 4
"""Bytes per element of torch's LayerNorm, one kernel; RMSNorm has one only in fused stacks."""


def layer_traffic(work: Work, stack: Stack, stream: str) -> float:
    """Bytes per token that one layer's elementwise kernels move, forward.

    Args:
        work: The model.
        stack: Its software.
        stream: Width of the residual stream, a key of `WIDE_STREAM`.
    """
    norm = stack.norm if work.rotary else min(stack.norm, FUSED_NORM)
    activation = stack.activation if work.gated else min(stack.activation, 4)
    hidden = 2 * work.hidden * (norm + stack.residual)
    rotary = stack.rotary * (work.query + work.kv) if work.rotary else 0
    mlp = activation * (work.active * work.ffn + work.shared_ffn)
    routed = ROUTED_BYTES * work.active * work.hidden if work.experts > 1 else 0
    of_stream, of_rest = WIDE_STREAM[stream]
    return of_stream * hidden + of_rest * (rotary + mlp + routed)


ROUTED_BYTES = 12
"""Bytes per element of h and expert visited: a token is copied to its experts (2+2) and summed back (2+2+4)."""
