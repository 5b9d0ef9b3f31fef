"""How long one optimizer step takes, from counts of work and rates of hardware, before anything runs.

The time of a micro-batch is the sum of what its kernels need: matrix products on a soft roofline, attention,
elementwise traffic, the loss, adapters, unpacking of quantised weights; or what the host needs to start them, if
that is longer. Collectives, pipeline bubble, offload and optimizer come on top as far as nothing hides them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from launcher.sizing.shape import ModelShape
from launcher.sizing.speed.kernels import (
    BACKWARD_TRAFFIC,
    FITTED,
    STACKS,
    WIDE_STREAM,
    Fitted,
    Rates,
    Stack,
    layer_traffic,
    product_seconds,
    rates_of,
)
from launcher.sizing.speed.layout import SpeedLayout, check_layout
from launcher.sizing.speed.links import Group, exposed, group
from launcher.sizing.speed.work import Work, attention_flops, model_flops, work_of

QUANTISED_BYTES = {"nf4": 0.5645, "gptq4": 0.5645, "int8": 1.0}
"""Bytes per packed weight, scales included."""
OPTIMIZER_BYTES = {"adamw": 60, "adamw_bf16": 34, "adamw_fused": 30, "adamw_8bit": 14, "lion": 22, "in_backward": 16}
"""HBM bytes per trained parameter in a step. Fused AdamW reads and writes weight, two float32 moments and a 16-bit
copy, and reads the gradient (30); torch's foreach form writes lists of temporaries between its passes (60)."""
ATTENTION_BACKWARD = 2.5
"""Flash attention's backward: five products for the forward's two (Dao et al. 2022)."""
HOST_GB_S = 180.0
"""Memory bandwidth of a host that CPU Adam shares over the GPUs of a node, GB/s (8 channels of DDR4-3200: 205)."""
CPU_ADAM_BYTES = 32
"""Host memory bytes per parameter of CPU Adam: float32 weight and moments in and out, gradient in, 16-bit out."""
LOOP_OPERATIONS = 12
"""Kernels per expert of Transformers' loop over experts: find its tokens, gather, three products, scale, add."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a layout reaches.

    Attributes:
        step_seconds: One optimizer step.
        parts: Its seconds by cause; they add up.
        tokens_per_second: Tokens of all GPUs, padding left out.
        tokens_per_gpu: The same per GPU.
        mfu: Model FLOPs over the data-sheet rate of the 16-bit format.
        tflops_per_gpu: Model TFLOP/s per GPU.
        low: Lower end of the tokens per second and GPU that nine in ten measurements reach.
        high: Upper end.
    """

    step_seconds: float
    parts: dict[str, float]
    tokens_per_second: float
    tokens_per_gpu: float
    mfu: float
    tflops_per_gpu: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Facts as they are printed and stored."""
        return {
            "step_seconds": self.step_seconds,
            "parts_seconds": self.parts,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_per_gpu": self.tokens_per_gpu,
            "tokens_per_second_per_gpu_interval": [self.low, self.high],
            "mfu": self.mfu,
            "model_tflops_per_gpu": self.tflops_per_gpu,
        }


SPREAD = {"measured": 1.4, "estimated": 1.6}
"""Factor within which nine in ten measurements lie, from the held-out errors: on GPUs with a measured matrix rate,
and on those whose rate is estimated."""


def predict_speed(shape: ModelShape | Work, layout: SpeedLayout, fitted: Fitted = FITTED) -> Speed:
    """The time of one optimizer step of a model of this shape in this layout.

    Raises:
        JobError: the layout is impossible: degrees that do not divide, a length beyond reason.
    """
    check_layout(layout)
    work = work_of(shape)
    is_measured = layout.gpu.is_measured and not (isinstance(shape, ModelShape) and shape.counted)
    return _speed(work, layout, Step(work, layout, fitted).parts(), SPREAD["measured" if is_measured else "estimated"])


def _speed(work: Work, layout: SpeedLayout, parts: dict[str, float], spread: float) -> Speed:
    seconds = sum(parts.values())
    positions = layout.data_ranks * layout.accumulation * layout.micro_batch * layout.length
    per_gpu = positions * layout.fill / seconds / layout.num_gpus
    flops = model_flops(work, trained=layout.trained, attended=layout.keys)
    tera = per_gpu * flops / 1e12
    return Speed(
        step_seconds=seconds,
        parts={name: value for name, value in parts.items() if value > 0},
        tokens_per_second=per_gpu * layout.num_gpus,
        tokens_per_gpu=per_gpu,
        mfu=tera / layout.gpu.tflops[layout.gpu.half],
        tflops_per_gpu=tera,
        low=per_gpu / spread,
        high=per_gpu * spread,
    )


class Step:
    """One optimizer step of one rank; each method gives the seconds of one cause."""

    def __init__(self, work: Work, layout: SpeedLayout, fitted: Fitted) -> None:
        self.work, self.layout, self.fitted = work, layout, fitted
        self.stack: Stack = STACKS[layout.stack]
        self.rates: Rates = rates_of(layout.gpu, layout.number_format, layout.attention, fitted)
        self.layers = work.layers / layout.pp
        self.again = {"none": 0.0, "attention": 0.0, "selective": 0.5, "full": 1.0}[layout.recompute]
        """How much of a forward pass runs once more."""

    def parts(self) -> dict[str, float]:
        """Seconds of the step by cause."""
        layout = self.layout
        kernels = {
            "matrix products": self.products() + self.head(),
            "attention": self.attention(),
            "elementwise": self.elementwise(),
            "loss": self.loss(),
            "adapters": self.adapters(),
            "dequantisation": self.dequantisation(),
        }
        compute = sum(kernels.values())
        host = (compute**4 + self.host() ** 4) ** 0.25 - compute
        micro = {**kernels, "host": host, "communication": self.crowd(compute) + self.per_micro_batch(compute)}
        micro["offload"] = self.parameter_offload(compute)
        busy = {name: seconds * layout.accumulation for name, seconds in micro.items()}
        bubble = sum(micro.values()) * (layout.pp - 1) / layout.virtual_stages
        busy["communication"] += self.per_step(compute)
        busy["offload"] += self.optimizer_offload()
        return {**busy, "pipeline bubble": bubble, "optimizer": self.optimizer()}

    def crowd(self, compute: float) -> float:
        """What there being other ranks costs, beside what is moved between them."""
        layout = self.layout
        if layout.num_gpus == 1:
            return 0.0
        return compute * (self.fitted.crowd + self.fitted.straggle * math.log2(layout.num_gpus / layout.node_gpus))

    def linears(self) -> list[tuple[float, float, float]]:
        """Inputs, outputs and tokens of a layer's products on one rank, forward."""
        work, layout, tokens = self.work, self.layout, self.layout.tokens
        h, q, k, tp = work.hidden, work.query, work.kv, layout.tp
        found: list[tuple[float, float, float]] = [(h, (q + 2 * k) / tp, tokens), (q / tp, h, tokens)]
        up = 2 if work.gated else 1
        for width in (work.shared_ffn, work.ffn if work.experts == 1 else 0):
            if width:
                found += [(h, up * width / tp, tokens), (width / tp, h, tokens)]
        return found

    def products(self) -> float:
        """Linear layers: forward, again where recomputed, gradient of the input, and of the weight where it trains."""
        rates = self.rates
        forward = sum(product_seconds(rates.dense, rates.memory, t, i, o) for i, o, t in self.linears())
        if self.layout.number_format in ("fp8", "fp4"):
            forward += sum(t * (i + o) for i, o, t in self.linears()) * self.fitted.low_precision / rates.memory
        return self.layers * (forward + self.experts()) * self.passes()

    def passes(self) -> float:
        """Products per weight, in forward passes."""
        return 2 + self.again + (1 if self.layout.trained else 0)

    def experts(self) -> float:
        """Products of a mixture's experts, forward: few tokens each, all resident experts' weights read."""
        work, layout = self.work, self.layout
        if work.experts == 1:
            return 0.0
        held = work.experts / layout.ep
        tokens = layout.tokens * work.active / held
        rate, memory = self.rates.dense * self.fitted.expert, self.rates.memory
        shapes = [(work.hidden, (2 if work.gated else 1) * work.ffn / layout.tp), (work.ffn / layout.tp, work.hidden)]
        return held * sum(product_seconds(rate, memory, tokens, i, o) for i, o in shapes)

    def head(self) -> float:
        """The output head's products; its weight trains in a full fine-tune."""
        rate = self.rates.half if self.layout.stream == "half" else self.rates.single
        outputs = self.work.vocab / self.layout.tp
        once = product_seconds(rate, self.rates.memory, self.layout.tokens, self.work.hidden, outputs)
        return once * (3 if self.layout.trained else 2) / self.layout.pp

    def attention(self) -> float:
        """Scores and weighted values. Fused kernels skip the masked half; eager ones write every score."""
        work, layout = self.work, self.layout
        if layout.attention != "eager":
            again = 1.0 if layout.recompute == "attention" else self.again
            flops = attention_flops(work, layout.keys / 2) * layout.tokens / layout.tp
            rate = min(self.rates.flash, self.rates.single) if layout.stream == "full" else self.rates.flash
            return self.layers * flops / rate * (1 + again + ATTENTION_BACKWARD)
        flops = attention_flops(work, layout.length) * layout.tokens / layout.tp
        scores = work.heads * layout.length * layout.tokens / layout.tp
        once = flops / self.rates.half + scores * self.fitted.eager_bytes / self.rates.memory
        return self.layers * once * (1 + self.again + BACKWARD_TRAFFIC)

    def elementwise(self) -> float:
        """Norms, residual stream, rotation, activation."""
        layout = self.layout
        traffic = layer_traffic(self.work, self.stack, layout.stream) * layout.tokens / layout.tp
        return self.layers * traffic / self.rates.memory * (1 + self.again + BACKWARD_TRAFFIC)

    def loss(self) -> float:
        """The passes of the loss over the logits."""
        logits = self.layout.tokens * self.work.vocab / self.layout.tp / self.layout.pp
        return logits * self.stack.logit / self.rates.memory

    def adapted_widths(self) -> float:
        """Inputs and outputs of all adapted projections of a layer."""
        work, layout = self.work, self.layout
        if layout.adapted == "none":
            return 0.0
        attention = 3 * work.hidden + 2 * work.query + 2 * work.kv + work.hidden
        mlp = work.mlp_matrices * (work.hidden + work.ffn) if work.experts == 1 else 0
        return attention + (mlp if layout.adapted == "all" else 0)

    def adapters(self) -> float:
        """Low-rank products: too thin to compute, they cost the reading and writing of their ends."""
        layout = self.layout
        widths = self.adapted_widths() * layout.tokens / layout.tp
        wide = WIDE_STREAM[layout.stream][1]
        once = widths * (wide * self.stack.adapter / self.rates.memory + 2 * layout.lora_r / self.rates.half)
        return self.layers * once * (1 + self.again + BACKWARD_TRAFFIC)

    def dequantisation(self) -> float:
        """Unpacking to 16 bits before each product with the weights: forward, again, and backward."""
        layout = self.layout
        if layout.quantization is None:
            return 0.0
        each = QUANTISED_BYTES[layout.quantization] + 2
        weights = self.work.layer_parameters / layout.tp / layout.ep
        rate = layout.gpu.hbm_gb_s * 1e9 * self.fitted.dequantise
        return self.layers * weights * each / rate * (2 + self.again)

    def host(self) -> float:
        """What the host needs to start the kernels of one micro-batch: the floor for few tokens and small models."""
        layout, work = self.layout, self.work
        linears = {"none": 0, "attention": 4, "all": 4 + work.mlp_matrices}[layout.adapted]
        per_layer = self.stack.operations + linears * self.stack.adapter * 0.6
        per_layer += 8 if layout.attention == "eager" else 0
        per_layer += 2 * (4 + work.mlp_matrices) if layout.quantization else 0
        per_layer += 10 if layout.sharding in ("fsdp", "zero3") else 0
        if work.experts > 1:
            per_layer += LOOP_OPERATIONS * work.experts / layout.ep if layout.expert_loop else self.fitted.routing
        passes = 1 + self.again + 1.5
        return (self.layers * per_layer * passes + 100) * self.fitted.host_us * 1e-6

    def data_group(self) -> Group:
        """The ranks over which weights or gradients are spread."""
        layout = self.layout
        ranks = layout.shard_ranks or layout.data_ranks * layout.cp
        return group(layout.gpu, min(ranks, layout.data_ranks * layout.cp), layout.tp, layout.node_gpus, self.fitted)

    def weight_bytes(self) -> float:
        """Bytes of the weights of one pipeline stage's tensor-parallel rank, as they travel."""
        work, layout = self.work, self.layout
        layer = work.attention_parameters + work.total_mlp_parameters / layout.ep
        each = QUANTISED_BYTES[layout.quantization] if layout.quantization else 2.0
        each = each if layout.packed == "engine" or not layout.quantization else 0.0
        root = work.head_parameters * (1 if work.tied else 2) * 2 / layout.pp
        return (self.layers * layer * each + root) / layout.tp

    def trained_parameters(self) -> float:
        """Parameters that train on one stage's tensor-parallel rank."""
        if self.layout.trained:
            return self.weight_bytes() / 2
        return self.layers * self.adapted_widths() * self.layout.lora_r / self.layout.tp

    def per_micro_batch(self, compute: float) -> float:
        """Collectives of one micro-batch that are waited for."""
        layout, overlap = self.layout, self.stack.overlap
        waited = self.tensor_parallel() + self.context_parallel() + self.expert_parallel()
        waited += exposed(self.packed_gathers(), compute, overlap)
        if layout.sharding not in ("fsdp", "zero3", "zero2"):
            return waited
        ranks = self.data_group()
        moved = ranks.gather(self.trained_parameters() * layout.gradient_bytes)
        if layout.sharding != "zero2":
            moved += 2 * ranks.gather(self.weight_bytes())
        return waited + exposed(moved, compute, overlap) + self.adapter_units()

    def packed_gathers(self) -> float:
        """Packed projections that are sharded on their own: gathered for forward, again, and backward, one by one."""
        layout, work = self.layout, self.work
        if layout.packed != "sharded" or layout.quantization is None:
            return 0.0
        ranks, linears = self.data_group(), 4 + work.mlp_matrices
        each = work.layer_parameters * QUANTISED_BYTES[layout.quantization] / layout.tp / linears
        return self.layers * linears * ranks.gather(each) * (2 + self.again)

    def adapter_units(self) -> float:
        """Units of their own are gathered forward, again, backward, and reduced.

        PEFT's wrapping for FSDP makes each trainable matrix one; ZeRO-3 makes each expert's matrices three.
        """
        layout = self.layout
        if layout.expert_loop and layout.sharding == "zero3":
            return self.layers * 3 * self.work.experts * (3 + self.again) * self.fitted.unit_ms * 1e-3
        if layout.adapted == "none" or layout.stack not in ("hf", "fused"):
            return 0.0
        linears = 4 if layout.adapted == "attention" else 4 + self.work.mlp_matrices
        return self.layers * 2 * linears * (3 + self.again) * self.fitted.unit_ms * 1e-3

    def tensor_parallel(self) -> float:
        """Two all-reduces a layer forward and two backward (Shoeybi et al. 2019), half hidden at best."""
        layout = self.layout
        ranks = group(layout.gpu, layout.tp, 1, layout.node_gpus, self.fitted)
        size = layout.tokens * self.work.hidden * 2
        return self.layers * ranks.reduce(size) * (4 + 2 * self.again) * (1 - self.stack.overlap / 2)

    def context_parallel(self) -> float:
        """Keys and values go once around the ring forward, with their gradients backward (Liu et al. 2023)."""
        layout = self.layout
        ranks = group(layout.gpu, layout.cp, layout.tp, layout.node_gpus, self.fitted)
        size = layout.tokens * layout.cp * 2 * self.work.kv * 2 / layout.tp
        return exposed(self.layers * ranks.gather(size) * 3, self.attention(), self.stack.overlap)

    def expert_parallel(self) -> float:
        """Tokens go to their experts and back, forward and backward: four all-to-alls a layer."""
        layout, work = self.layout, self.work
        if work.experts == 1:
            return 0.0
        ranks = group(layout.gpu, layout.ep, layout.tp, layout.node_gpus, self.fitted)
        size = layout.tokens * work.active * work.hidden * 2 / layout.tp
        return self.layers * ranks.exchange(size) * (4 + 2 * self.again) * (1 - self.stack.overlap / 2)

    def per_step(self, compute: float) -> float:
        """Collectives once a step that are waited for: gradients, and weights after a sharded update."""
        layout, ranks, overlap = self.layout, self.data_group(), self.stack.overlap
        gradients = ranks.gather(self.trained_parameters() * layout.gradient_bytes)
        if layout.data_ranks == 1 or layout.sharding in ("fsdp", "zero3"):
            return 0.0
        if layout.sharding == "zero2":
            return ranks.gather(self.trained_parameters() * 2)
        if layout.sharding == "zero1":
            return exposed(gradients + ranks.gather(self.trained_parameters() * 2), compute, overlap)
        return exposed(2 * gradients, compute / 2, overlap)

    def optimizer(self) -> float:
        """The update: memory traffic over the rank's share of the trained parameters."""
        layout = self.layout
        if layout.offload != "none":
            return 0.0
        shards = 1 if layout.sharding in ("none", "ddp") else self.data_group().ranks
        return self.trained_parameters() / shards * OPTIMIZER_BYTES[layout.optimizer] / self.rates.memory

    def optimizer_offload(self) -> float:
        """Gradients to the host, Adam there, weights back."""
        layout = self.layout
        if layout.offload == "none":
            return 0.0
        share = self.trained_parameters() / self.data_group().ranks
        pcie = share * (layout.gradient_bytes + 2) / (layout.gpu.pcie_gb_s * 1e9)
        return pcie + share * CPU_ADAM_BYTES * layout.node_gpus / (HOST_GB_S * 1e9)

    def parameter_offload(self, compute: float) -> float:
        """Weights come from the host for the forward and again for the backward pass."""
        layout = self.layout
        if layout.offload != "parameters":
            return 0.0
        moved = 2 * self.weight_bytes() / self.data_group().ranks / (layout.gpu.pcie_gb_s * 1e9)
        return exposed(moved, compute, self.stack.overlap)
