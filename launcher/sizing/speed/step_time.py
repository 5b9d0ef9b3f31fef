"""The seconds of one optimizer step by cause.

The time of a micro-batch is the sum of what its kernels need: matrix products on a soft roofline, attention,
elementwise traffic, the loss, adapters, unpacking of quantised weights; or what the host needs to start them, if
that is longer. Collectives, pipeline bubble, offload and optimizer come on top as far as nothing hides them.
"""

from __future__ import annotations

import math

from launcher.sizing.speed.inputs import (
    AGAIN,
    SHARDINGS,
    SpeedInput,
    adapted_projections,
    attention_kernel,
    optimizer_kernel,
    stack_of,
)
from launcher.sizing.speed.kernels import (
    BACKWARD_TRAFFIC,
    STACKS,
    WIDE_STREAM,
    Rates,
    Stack,
    layer_traffic,
    product_seconds,
    rates_of,
)
from launcher.sizing.speed.links import Group, exposed, group
from launcher.sizing.speed.work import attention_flops

QUANTISED_BYTES = {"nf4": 0.5645, "nf4_plain": 0.5645, "gptq4": 0.5645, "int8": 1.0}
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


class StepTime:
    """One optimizer step of one rank; each method gives the seconds of one cause."""

    def __init__(self, given: SpeedInput) -> None:
        layout, trainer = given.layout, given.trainer
        self.work, self.layout, self.fitted, self.trainer = given.work, layout, given.fitted, trainer
        self.gpu, self.node_gpus, self.tokens, self.keys = given.gpu, given.node_gpus, given.tokens, given.keys
        self.trains_all = given.trains_all
        self.number_format = trainer.number_format or given.gpu.half
        self.kernel = attention_kernel(trainer)
        self.stack: Stack = STACKS[stack_of(trainer)]
        self.stream = "half" if not trainer.kbit_upcast else "full" if trainer.hidden_fp32 else "norms"
        self.sharding = "none" if layout.ranks == 1 else SHARDINGS.get(layout.engine, layout.engine)
        self.rates: Rates = rates_of(given.gpu, self.number_format, self.kernel, given.fitted)
        self.layers = given.work.layers / layout.pp
        self.again = AGAIN[layout.checkpointing]
        self.adapted = adapted_projections(layout)
        self.lora_r = layout.adapters.r if layout.adapters else 0
        self.packed_apart = layout.shard_quantized or trainer.quantised_on_every_rank

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
        if layout.ranks == 1:
            return 0.0
        return compute * (self.fitted.crowd + self.fitted.straggle * math.log2(layout.ranks / self.node_gpus))

    def linears(self) -> list[tuple[float, float, float]]:
        """Inputs, outputs and tokens of a layer's products on one rank, forward."""
        work, layout, tokens = self.work, self.layout, self.tokens
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
        if self.number_format in ("fp8", "fp4"):
            forward += sum(t * (i + o) for i, o, t in self.linears()) * self.fitted.low_precision / rates.memory
        return self.layers * (forward + self.experts()) * self.passes()

    def passes(self) -> float:
        """Products per weight, in forward passes."""
        return 2 + self.again + (1 if self.trains_all else 0)

    def experts(self) -> float:
        """Products of a mixture's experts, forward: few tokens each, all resident experts' weights read."""
        work, layout = self.work, self.layout
        if work.experts == 1:
            return 0.0
        held = work.experts / layout.ep
        tokens = self.tokens * work.active / held
        rate, memory = self.rates.dense * self.fitted.expert, self.rates.memory
        shapes = [(work.hidden, (2 if work.gated else 1) * work.ffn / layout.tp), (work.ffn / layout.tp, work.hidden)]
        return held * sum(product_seconds(rate, memory, tokens, i, o) for i, o in shapes)

    def head(self) -> float:
        """The output head's products; its weight trains in a full fine-tune."""
        rate = self.rates.half if self.stream == "half" else self.rates.single
        outputs = self.work.vocab / self.layout.tp
        once = product_seconds(rate, self.rates.memory, self.tokens, self.work.hidden, outputs)
        return once * (3 if self.trains_all else 2) / self.layout.pp

    def attention(self) -> float:
        """Scores and weighted values. Fused kernels skip the masked half; eager ones write every score."""
        work, layout = self.work, self.layout
        if self.kernel != "eager":
            again = 1.0 if layout.checkpointing == "attention" else self.again
            flops = attention_flops(work, self.keys / 2) * self.tokens / layout.tp
            rate = min(self.rates.flash, self.rates.single) if self.stream == "full" else self.rates.flash
            return self.layers * flops / rate * (1 + again + ATTENTION_BACKWARD)
        flops = attention_flops(work, layout.length) * self.tokens / layout.tp
        scores = work.heads * layout.length * self.tokens / layout.tp
        once = flops / self.rates.half + scores * self.fitted.eager_bytes / self.rates.memory
        return self.layers * once * (1 + self.again + BACKWARD_TRAFFIC)

    def elementwise(self) -> float:
        """Norms, residual stream, rotation, activation."""
        layout = self.layout
        traffic = layer_traffic(self.work, self.stack, self.stream) * self.tokens / layout.tp
        return self.layers * traffic / self.rates.memory * (1 + self.again + BACKWARD_TRAFFIC)

    def loss(self) -> float:
        """The passes of the loss over the logits."""
        logits = self.tokens * self.work.vocab / self.layout.tp / self.layout.pp
        return logits * self.stack.logit / self.rates.memory

    def adapted_widths(self) -> float:
        """Inputs and outputs of all adapted projections of a layer."""
        work = self.work
        if self.adapted == "none":
            return 0.0
        attention = 3 * work.hidden + 2 * work.query + 2 * work.kv + work.hidden
        mlp = work.mlp_matrices * (work.hidden + work.ffn) if work.experts == 1 else 0
        return attention + (mlp if self.adapted == "all" else 0)

    def adapters(self) -> float:
        """Low-rank products: too thin to compute, they cost the reading and writing of their ends."""
        layout = self.layout
        widths = self.adapted_widths() * self.tokens / layout.tp
        wide = WIDE_STREAM[self.stream][1]
        once = widths * (wide * self.stack.adapter / self.rates.memory + 2 * self.lora_r / self.rates.half)
        return self.layers * once * (1 + self.again + BACKWARD_TRAFFIC)

    def dequantisation(self) -> float:
        """Unpacking to 16 bits before each product with the weights: forward, again, and backward."""
        layout = self.layout
        if not layout.quantization:
            return 0.0
        each = QUANTISED_BYTES[layout.quantization] + 2
        weights = self.work.layer_parameters / layout.tp / layout.ep
        rate = self.gpu.hbm_gb_s * 1e9 * self.fitted.dequantise
        return self.layers * weights * each / rate * (2 + self.again)

    def host(self) -> float:
        """What the host needs to start the kernels of one micro-batch: the floor for few tokens and small models."""
        layout, work = self.layout, self.work
        linears = {"none": 0, "attention": 4, "all": 4 + work.mlp_matrices}[self.adapted]
        per_layer = self.stack.operations + linears * self.stack.adapter * 0.6
        per_layer += 8 if self.kernel == "eager" else 0
        per_layer += 2 * (4 + work.mlp_matrices) if layout.quantization else 0
        per_layer += 10 if self.sharding in ("fsdp", "zero3") else 0
        if work.experts > 1:
            looped = LOOP_OPERATIONS * work.experts / layout.ep
            per_layer += looped if self.trainer.expert_loop else self.fitted.routing
        passes = 1 + self.again + 1.5
        return (self.layers * per_layer * passes + 100) * self.fitted.host_us * 1e-6

    def data_group(self) -> Group:
        """The ranks over which weights or gradients are spread."""
        layout = self.layout
        return group(self.gpu, layout.sharded_over, layout.tp, self.node_gpus, self.fitted)

    def weight_bytes(self) -> float:
        """Bytes of the weights of one pipeline stage's tensor-parallel rank, as they travel."""
        work, layout = self.work, self.layout
        layer = work.attention_parameters + work.total_mlp_parameters / layout.ep
        each = QUANTISED_BYTES[layout.quantization] if layout.quantization else 2.0
        each = each if not self.packed_apart or not layout.quantization else 0.0
        root = work.head_parameters * (1 if work.tied else 2) * 2 / layout.pp
        return (self.layers * layer * each + root) / layout.tp

    def trained_parameters(self) -> float:
        """Parameters that train on one stage's tensor-parallel rank."""
        if self.trains_all:
            return self.weight_bytes() / 2
        return self.layers * self.adapted_widths() * self.lora_r / self.layout.tp

    def per_micro_batch(self, compute: float) -> float:
        """Collectives of one micro-batch that are waited for."""
        overlap = self.stack.overlap
        waited = self.tensor_parallel() + self.context_parallel() + self.expert_parallel()
        waited += exposed(self.packed_gathers(), compute, overlap)
        if self.sharding not in ("fsdp", "zero3", "zero2"):
            return waited
        ranks = self.data_group()
        moved = ranks.gather(self.trained_parameters() * self.trainer.reduce_bytes)
        if self.sharding != "zero2":
            moved += 2 * ranks.gather(self.weight_bytes())
        return waited + exposed(moved, compute, overlap) + self.adapter_units()

    def packed_gathers(self) -> float:
        """Packed projections that are sharded on their own: gathered for forward, again, and backward, one by one."""
        layout, work = self.layout, self.work
        if not layout.shard_quantized or not layout.quantization:
            return 0.0
        ranks, linears = self.data_group(), 4 + work.mlp_matrices
        each = work.layer_parameters * QUANTISED_BYTES[layout.quantization] / layout.tp / linears
        return self.layers * linears * ranks.gather(each) * (2 + self.again)

    def adapter_units(self) -> float:
        """Units of their own are gathered forward, again, backward, and reduced.

        PEFT's wrapping for FSDP makes each trainable matrix one; ZeRO-3 makes each expert's matrices three.
        """
        if self.trainer.expert_loop and self.sharding == "zero3":
            return self.layers * 3 * self.work.experts * (3 + self.again) * self.fitted.unit_ms * 1e-3
        if self.adapted == "none" or stack_of(self.trainer) not in ("hf", "fused"):
            return 0.0
        linears = 4 if self.adapted == "attention" else 4 + self.work.mlp_matrices
        return self.layers * 2 * linears * (3 + self.again) * self.fitted.unit_ms * 1e-3

    def tensor_parallel(self) -> float:
        """Two all-reduces a layer forward and two backward (Shoeybi et al. 2019), half hidden at best."""
        layout = self.layout
        ranks = group(self.gpu, layout.tp, 1, self.node_gpus, self.fitted)
        size = self.tokens * self.work.hidden * 2
        return self.layers * ranks.reduce(size) * (4 + 2 * self.again) * (1 - self.stack.overlap / 2)

    def context_parallel(self) -> float:
        """Keys and values go once around the ring forward, with their gradients backward (Liu et al. 2023)."""
        layout = self.layout
        ranks = group(self.gpu, layout.sequence_parallel, layout.tp, self.node_gpus, self.fitted)
        size = self.tokens * layout.sequence_parallel * 2 * self.work.kv * 2 / layout.tp
        return exposed(self.layers * ranks.gather(size) * 3, self.attention(), self.stack.overlap)

    def expert_parallel(self) -> float:
        """Tokens go to their experts and back, forward and backward: four all-to-alls a layer."""
        layout, work = self.layout, self.work
        if work.experts == 1:
            return 0.0
        ranks = group(self.gpu, layout.ep, layout.tp, self.node_gpus, self.fitted)
        size = self.tokens * work.active * work.hidden * 2 / layout.tp
        return self.layers * ranks.exchange(size) * (4 + 2 * self.again) * (1 - self.stack.overlap / 2)

    def per_step(self, compute: float) -> float:
        """Collectives once a step that are waited for: gradients, and weights after a sharded update."""
        layout, ranks, overlap = self.layout, self.data_group(), self.stack.overlap
        gradients = ranks.gather(self.trained_parameters() * self.trainer.reduce_bytes)
        if layout.data_ranks == 1 or self.sharding in ("fsdp", "zero3"):
            return 0.0
        if self.sharding == "zero2":
            return ranks.gather(self.trained_parameters() * 2)
        if self.sharding == "zero1":
            return exposed(gradients + ranks.gather(self.trained_parameters() * 2), compute, overlap)
        return exposed(2 * gradients, compute / 2, overlap)

    def optimizer(self) -> float:
        """The update: memory traffic over the rank's share of the trained parameters."""
        layout = self.layout
        if layout.offload:
            return 0.0
        shards = 1 if self.sharding in ("none", "ddp") else self.data_group().ranks
        return self.trained_parameters() / shards * OPTIMIZER_BYTES[optimizer_kernel(self.trainer)] / self.rates.memory

    def optimizer_offload(self) -> float:
        """Gradients to the host, Adam there, weights back."""
        layout = self.layout
        if not layout.offload:
            return 0.0
        share = self.trained_parameters() / self.data_group().ranks
        pcie = share * (self.trainer.reduce_bytes + 2) / (self.gpu.pcie_gb_s * 1e9)
        return pcie + share * CPU_ADAM_BYTES * self.node_gpus / (HOST_GB_S * 1e9)

    def parameter_offload(self, compute: float) -> float:
        """Weights come from the host for the forward and again for the backward pass."""
        layout = self.layout
        if layout.offload != "all":
            return 0.0
        moved = 2 * self.weight_bytes() / self.data_group().ranks / (self.gpu.pcie_gb_s * 1e9)
        return exposed(moved, compute, self.stack.overlap)
