"""What the forward pass keeps and the backward pass makes, by moment.

Bytes per token, counted on what autograd saves in Transformers' decoder layers, with a the bytes of an activation,
h hidden size, q and k the widths of query and key heads, f the MLP's width. Korthikanti et al. 2022 (arXiv 2205.05198)
count the same for GELU layers without LoRA. The counts are compared with rows in docs/accuracy.md.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.sizing.memory.settings import BF16, FP32, LOSSES, Job
from launcher.sizing.shape import Linear, targeted

EAGER_SAVED = {BF16: 6, FP32: 8}
"""Bytes per score that eager attention keeps: softmax in float32, and its copy in the compute type."""
EAGER_PEAK = {BF16: 16.0, FP32: 18.0}
"""With gradients: of the copy, of the softmax's output, and of its input."""
TOP_COPIES = 2.0
"""Copies of the hidden state that the final norm leaves while the last layer runs backward."""
LOSS_HIDDEN_BYTES = 6.0
"""Bytes per hidden number alive in the loss: the final norm's float32 copy, and its output."""


def activation_bytes(job: Job) -> int:
    """Bytes of one activation: 4 where k-bit preparation makes the residual stream float32 without autocast."""
    return FP32 if job.regime.hidden_fp32 else BF16


def _widths(job: Job) -> tuple[float, float, float, float]:
    """h, q, k and f of one rank: tensor parallelism splits q, k and f, and with sequence parallelism h too."""
    shape, tp = job.shape, job.tp
    hidden = shape.hidden_size / (tp if job.sequence_parallel else 1)
    return hidden, shape.query_size / tp, shape.kv_size / tp, shape.intermediate_size / tp


def _norm_bytes(job: Job) -> float:
    """Norms of a layer: a float32 copy of the input each where RMSNorm is Transformers' own, else the input alone.

    The first norm's input is the stored residual. A trained weight keeps the normalised copy as well.
    """
    h, a, shape = _widths(job)[0], activation_bytes(job), job.shape
    norms = shape.norms_per_layer
    if job.regime.fused_norms or job.regime.compiled or not shape.rms_norm:
        return a * h * (norms - 1)
    return norms * FP32 * h + (0 if job.adapters else norms * a * h)


def _attention_bytes(job: Job) -> float:
    """Query, key, value after rotation, and the output; keys and values of all heads where they are repeated."""
    _, q, k, _ = _widths(job)
    repeats = job.regime.repeats_kv or job.attention == "sdpa"
    return activation_bytes(job) * (4 * q if repeats else 2 * q + 2 * k)


def _scores(job: Job) -> float:
    """Scores per token that eager attention holds: heads times length."""
    return job.shape.num_heads / job.tp * job.length if job.attention == "eager" else 0.0


def _mlp_saved(job: Job) -> float:
    """Gate, activation, up, and the product that a trained down projection reads; of as many experts as a token has.

    Compiled or fused kernels compute the activation again.
    """
    _, _, _, f = _widths(job)
    a, regime = activation_bytes(job), job.regime
    trained_product = 1 if _keeps_inputs(job) else 0
    if not job.shape.gated_mlp:
        return a * f * (1 + trained_product)
    copies = 2 if regime.fused_mlp or regime.compiled else 3
    return a * f * (copies + trained_product) * max(1, job.shape.experts_per_token) + _routing(job)


def _routing(job: Job) -> float:
    """Experts read and write gathered copies of the hidden state."""
    return 2 * activation_bytes(job) * _widths(job)[0] * job.shape.experts_per_token


def _mlp_peak(job: Job) -> float:
    """The MLP when its product goes backward: what is saved, and gradients of product, activation and up.

    Experts go backward one after the other: gradients are of one expert's tokens.
    """
    _, _, _, f = _widths(job)
    a, shape = activation_bytes(job), job.shape
    if not shape.gated_mlp:
        return 4 * a * f
    fused = job.regime.fused_mlp or job.regime.compiled
    saved, gradients = (2, 2) if fused else (3, 3)
    if not shape.num_experts:
        return (saved + gradients) * a * f
    top = shape.experts_per_token
    return a * f * top * (saved + gradients / shape.num_experts) + _routing(job)


def _linear_inputs(job: Job) -> float:
    """Inputs of projections whose weight needs them: one copy for query, key and value, one for gate and up."""
    return 2 * activation_bytes(job) * _widths(job)[0] if _keeps_inputs(job) else 0.0


def _keeps_inputs(job: Job) -> bool:
    """Whether projections keep their inputs: to train their weights, or because a packed product does anyway."""
    return job.adapters is None or bool(job.quantization and job.regime.saves_packed_inputs)


def adapter_bytes(job: Job) -> float:
    """What adapters keep: their input and the low-rank product, and with dropout its mask and output.

    PEFT casts the input to float32 for each adapted projection apart; under autocast the product casts it back and
    the copy that stays has two bytes. Where nothing is cast, projections share one input.
    """
    if job.adapters is None:
        return 0.0
    a, regime = activation_bytes(job), job.regime
    chosen = [linear for linear, count in targeted(job.shape, job.adapters.targets) if linear.name not in ROOTS]
    own = regime.casts_inputs and regime.adapter_bytes > a
    copy = (BF16 if regime.autocast else FP32) if own else a
    widths = sum(linear.inputs for linear in chosen)
    dropout = job.adapters.dropout or regime.dropout
    kept = widths if own or dropout else _shared(chosen, job)
    mask = widths if dropout else 0
    return (kept * copy + mask + job.adapters.r * len(chosen) * copy) / job.tp


ROOTS = ("lm_head", "embed_tokens")


def _shared(chosen: list[Linear], job: Job) -> int:
    """Inputs that projections share: one of query, key and value, one of gate and up, the product of down.

    The output projection's input is attention's output, which is kept anyway; fused MLPs make the product again.
    """
    outputs = ("o_proj", "out_proj", "dense", "attn.c_proj")
    downs = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2") if job.regime.fused_mlp else ()
    kept = [linear for linear in chosen if not linear.name.endswith((*outputs, *downs))]
    return sum({(linear.name.split(".")[0], linear.inputs): linear.inputs for linear in kept}.values())


def layer_saved_bytes(job: Job) -> float:
    """Bytes per token that a layer without full checkpointing keeps until its backward pass."""
    if job.checkpointing == "selective":
        return _selected_bytes(job)
    h, a = _widths(job)[0], activation_bytes(job)
    scores = EAGER_SAVED[a] * _scores(job)
    parts = _norm_bytes(job) + _attention_bytes(job) + _mlp_saved(job) + _linear_inputs(job) + adapter_bytes(job)
    return parts + scores + a * h


def _selected_bytes(job: Job) -> float:
    """Selective checkpointing by operation: the layer's input, attention's output, every second product.

    torchtitan's policy (`_apply_op_sac`). Megatron's, which drops scores only, keeps what flash attention keeps.
    """
    h, q, k, f = _widths(job)
    if job.engine == "megatron":
        return layer_saved_bytes(replace(job, checkpointing="none"))
    products = q + 2 * k + 2 * h + (2 if job.shape.gated_mlp else 1) * f * max(1, job.shape.experts_per_token)
    return activation_bytes(job) * (h + q + products / 2)


def layer_peak_bytes(job: Job) -> float:
    """Bytes per token while one layer runs forward again and backward, beside its stored input.

    Two moments compete: the MLP's backward with attention still saved, and eager attention's backward, when the
    MLP's part is free again. a (6 f + 3 h + 2 q + 2 k) for a gated MLP with fused norms.
    """
    h, a = _widths(job)[0], activation_bytes(job)
    around = _norm_bytes(job) + _attention_bytes(job) + adapter_bytes(job) + 2 * a * h
    mlp = _mlp_peak(job) + EAGER_SAVED[a] * _scores(job)
    attention = EAGER_PEAK[a] * _scores(job)
    return around + max(mlp, attention)


def input_bytes(job: Job) -> float:
    """A layer's input, which every kind of checkpointing keeps."""
    return activation_bytes(job) * _widths(job)[0]


def stored_bytes(job: Job) -> float:
    """Bytes per token that stay until the backward pass of their layer: inputs of layers, or all that layers save.

    Full recomputation keeps one hidden state per layer (Korthikanti et al. 2022, section 5); offloaded ones lie in
    host memory but for two. A pipeline's first stage has as many micro-batches in flight as there are stages.
    """
    a, layers = activation_bytes(job), job.shape.num_layers / job.pp
    h = _widths(job)[0]
    in_flight = job.pp
    if job.checkpointing == "offload":
        return 2 * a * h
    if job.checkpointing == "full":
        return layers * a * h * in_flight
    return layers * layer_saved_bytes(job) * in_flight


def retained_bytes(job: Job) -> float:
    """Inputs of all blocks and their gradients, which FSDP1 holds until backward ends when weights are frozen.

    Blocks without trained weights of their own are freed by a hook on all their input gradients together
    (`register_multi_grad_hook`), and the hook keeps what it has seen: 4 L h bytes per token in every PEFT row on FSDP1.
    """
    if job.engine != "fsdp1" or not job.adapters or not job.regime.retains_input_gradients:
        return 0.0
    return 2 * job.shape.num_layers * BF16 * job.shape.hidden_size


def top_bytes(job: Job) -> float:
    """Copies of the hidden state around the final norm, alive while the last layer runs backward."""
    return TOP_COPIES * activation_bytes(job) * job.shape.hidden_size


def loss_bytes(job: Job) -> float:
    """Bytes of the loss for all tokens of a forward pass, the gradient of the head that it gathers included."""
    kernel, shape, tokens = LOSSES[job.regime.loss], job.shape, job.tokens
    vocabulary = shape.vocab_size / job.tp
    logits = kernel.logit_bytes * vocabulary * min(tokens, _chunk(job))
    hidden = LOSS_HIDDEN_BYTES * shape.hidden_size * tokens
    return logits + hidden + head_gradient_bytes(job)


def _chunk(job: Job) -> float:
    kernel = LOSSES[job.regime.loss]
    if kernel.by_width:
        return job.tokens * job.shape.hidden_size / job.shape.vocab_size
    return (kernel.chunk_tokens and job.regime.chunk_tokens) or kernel.chunk_tokens or job.tokens


def head_gradient_bytes(job: Job) -> float:
    """Gradient of a trained output head while the loss gathers it; other kernels make it in backward only."""
    return trained_head_bytes(job) * (LOSSES[job.regime.loss].head_gradient or BF16) / BF16


def trained_head_bytes(job: Job) -> float:
    """Gradient of a trained output head in the compute type: the first that backward makes."""
    return 0.0 if job.adapters else BF16 * job.shape.vocab_size * job.shape.hidden_size / job.tp
