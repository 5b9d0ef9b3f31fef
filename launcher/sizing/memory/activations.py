"""What the forward pass keeps and the backward pass makes, by moment.

Bytes per token, counted on what autograd saves in Transformers' decoder layers, with a the bytes of an activation,
h hidden size, q and k the widths of query and key heads, f the MLP's width. Korthikanti et al. 2022 (arXiv 2205.05198)
count the same for GELU layers without LoRA. The counts are compared with rows in docs/accuracy.md.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.shape import Linear, targeted
from launcher.sizing.trainer_model import BF16, FP32, LOSSES

EAGER_SAVED = {BF16: 6, FP32: 8}
"""Bytes per score that eager attention keeps: softmax in float32, and its copy in the compute type."""
EAGER_PEAK = {BF16: 16.0, FP32: 18.0}
"""With gradients: of the copy, of the softmax's output, and of its input."""
TOP_COPIES = 2.0
"""Copies of the hidden state that the final norm leaves while the last layer runs backward."""
LOSS_HIDDEN_BYTES = 6.0
"""Bytes per hidden number alive in the loss: the final norm's float32 copy, and its output in two bytes."""


def _widths(given: MemoryInput) -> tuple[float, float, float, float]:
    """h, q, k and f of one rank: tensor parallelism splits all four, where Megatron splits the tokens around it too."""
    shape, tp = given.shape, given.layout.tp
    return shape.hidden_size / tp, shape.query_size / tp, shape.kv_size / tp, shape.intermediate_size / tp


def _norm_bytes(given: MemoryInput) -> float:
    """Norms of a layer: a float32 copy of the input each where RMSNorm is Transformers' own, else the input alone.

    The first norm's input is the stored residual. A trained weight keeps the normalised copy as well.
    """
    h, a, shape, trainer = _widths(given)[0], given.trainer.activation_bytes, given.shape, given.trainer
    norms = shape.norms_per_layer
    inputs_alone = trainer.fused_norms or trainer.compiled or not shape.rms_norm
    copies = (norms - 1) * a * h if inputs_alone or trainer.compute_bytes == FP32 else norms * FP32 * h
    return copies + (0 if inputs_alone or given.layout.adapters else norms * a * h)


def _attention_bytes(given: MemoryInput) -> float:
    """Query, key, value after rotation, and the output; keys and values of all heads where they are repeated."""
    _, q, k, _ = _widths(given)
    repeats = given.trainer.repeats_kv or given.trainer.attention == "sdpa"
    return given.trainer.activation_bytes * (4 * q if repeats else 2 * q + 2 * k)


def _scores(given: MemoryInput) -> float:
    """Scores per token that eager attention holds: heads times length."""
    layout = given.layout
    return given.shape.num_heads / layout.tp * layout.length if given.trainer.attention == "eager" else 0.0


def _mlp_saved(given: MemoryInput) -> float:
    """Gate, activation, up, and the product that a trained down projection reads; of as many experts as a token has.

    Compiled or fused kernels compute the activation again.
    """
    _, _, _, f = _widths(given)
    a, trainer = given.trainer.activation_bytes, given.trainer
    trained_product = 1 if _keeps_inputs(given) else 0
    if not given.shape.gated_mlp:
        return a * f * (1 + trained_product)
    copies = 2 if trainer.fused_mlp or trainer.compiled else 3
    return a * f * (copies + trained_product) * max(1, given.shape.experts_per_token) + _routing(given)


def _routing(given: MemoryInput) -> float:
    """Experts read and write gathered copies of the hidden state."""
    return 2 * given.trainer.activation_bytes * _widths(given)[0] * given.shape.experts_per_token


def _mlp_peak(given: MemoryInput) -> float:
    """The MLP when its product goes backward: what is saved, and gradients of product, activation and up.

    Experts go backward one after the other: gradients are of one expert's tokens.
    """
    _, _, _, f = _widths(given)
    a, shape = given.trainer.activation_bytes, given.shape
    if not shape.gated_mlp:
        return 4 * a * f
    fused = given.trainer.fused_mlp or given.trainer.compiled
    saved, gradients = (2, 2) if fused else (3, 3)
    if not shape.num_experts:
        return (saved + gradients) * a * f
    top = shape.experts_per_token
    return a * f * top * (saved + gradients / shape.num_experts) + _routing(given)


def _linear_inputs(given: MemoryInput) -> float:
    """Inputs of projections whose weight needs them: one copy for query, key and value, one for gate and up."""
    return 2 * given.trainer.activation_bytes * _widths(given)[0] if _keeps_inputs(given) else 0.0


def _keeps_inputs(given: MemoryInput) -> bool:
    """Whether projections keep their inputs: to train their weights, or because a packed product does anyway."""
    return given.layout.adapters is None or bool(given.layout.quantization and given.trainer.saves_packed_inputs)


def adapter_bytes(given: MemoryInput) -> float:
    """What adapters keep: their input and the low-rank product, and with dropout its mask and output.

    PEFT casts the input to float32 for each adapted projection apart; under autocast the product casts it back and
    the copy that stays has two bytes. Where nothing is cast, projections share one input.
    """
    if given.layout.adapters is None:
        return 0.0
    a, trainer = given.trainer.activation_bytes, given.trainer
    chosen = [
        linear for linear, count in targeted(given.shape, given.layout.adapters.targets) if linear.name not in ROOTS
    ]
    own = trainer.casts_inputs and trainer.adapter_bytes > a
    copy = (BF16 if trainer.autocast else FP32) if own else a
    widths = sum(linear.inputs for linear in chosen)
    dropout = given.layout.adapters.dropout or trainer.dropout
    kept = widths if own or dropout else _shared(chosen, given)
    mask = widths if dropout else 0
    return (kept * copy + mask + given.layout.adapters.r * len(chosen) * copy) / given.layout.tp


ROOTS = ("lm_head", "embed_tokens")


def _shared(chosen: list[Linear], given: MemoryInput) -> int:
    """Inputs that projections share: one of query, key and value, one of gate and up, the product of down.

    The output projection's input is attention's output, which is kept anyway; fused MLPs make the product again.
    """
    outputs = ("o_proj", "out_proj", "dense", "attn.c_proj")
    downs = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2") if given.trainer.fused_mlp else ()
    kept = [linear for linear in chosen if not linear.name.endswith((*outputs, *downs))]
    return sum({(linear.name.split(".")[0], linear.inputs): linear.inputs for linear in kept}.values())


def layer_saved_bytes(given: MemoryInput) -> float:
    """Bytes per token that a layer without full checkpointing keeps until its backward pass."""
    if given.layout.checkpointing == "selective":
        return _selected_bytes(given)
    h, a = _widths(given)[0], given.trainer.activation_bytes
    scores = EAGER_SAVED[a] * _scores(given)
    parts = (
        _norm_bytes(given) + _attention_bytes(given) + _mlp_saved(given) + _linear_inputs(given) + adapter_bytes(given)
    )
    return parts + scores + a * h


def _selected_bytes(given: MemoryInput) -> float:
    """Selective checkpointing by operation: the layer's input, attention's output, every second product.

    torchtitan's policy (`_apply_op_sac`). Megatron's, which drops scores only, keeps what flash attention keeps.
    """
    h, q, k, f = _widths(given)
    if given.layout.engine == "megatron":
        return layer_saved_bytes(replace(given, layout=replace(given.layout, checkpointing="none")))
    products = q + 2 * k + 2 * h + (2 if given.shape.gated_mlp else 1) * f * max(1, given.shape.experts_per_token)
    return given.trainer.activation_bytes * (h + q + products / 2)


def layer_peak_bytes(given: MemoryInput) -> float:
    """Bytes per token while one layer runs forward again and backward, beside its stored input.

    Two moments compete: the MLP's backward with attention still saved, and eager attention's backward, when the
    MLP's part is free again. a (6 f + 3 h + 2 q + 2 k) for a gated MLP with fused norms.
    """
    h, a = _widths(given)[0], given.trainer.activation_bytes
    around = _norm_bytes(given) + _attention_bytes(given) + adapter_bytes(given) + 2 * a * h
    mlp = _mlp_peak(given) + EAGER_SAVED[a] * _scores(given)
    attention = EAGER_PEAK[a] * _scores(given)
    return around + max(mlp, attention)


def input_bytes(given: MemoryInput) -> float:
    """A layer's input, which every kind of checkpointing keeps."""
    return given.trainer.activation_bytes * _widths(given)[0]


def stored_bytes(given: MemoryInput) -> float:
    """Bytes per token that stay until the backward pass of their layer: inputs of layers, or all that layers save.

    Full recomputation keeps one hidden state per layer (Korthikanti et al. 2022, section 5); offloaded ones lie in
    host memory but for two. A pipeline's first stage has as many micro-batches in flight as there are stages.
    """
    a, layers = given.trainer.activation_bytes, given.shape.num_layers / given.layout.pp
    h = _widths(given)[0]
    in_flight = given.layout.pp
    if given.layout.checkpointing == "offload":
        return 2 * a * h
    if given.layout.checkpointing == "full":
        return layers * a * h * in_flight
    return layers * layer_saved_bytes(given) * in_flight


def retained_bytes(given: MemoryInput) -> float:
    """Inputs of all blocks and their gradients, which FSDP1 holds until backward ends when weights are frozen.

    Blocks without trained weights of their own are freed by a hook on all their input gradients together
    (`register_multi_grad_hook`), and the hook keeps what it has seen: 4 L h bytes per token in every PEFT row on FSDP1.
    """
    if given.layout.engine != "fsdp1" or not given.layout.adapters or not given.trainer.retains_input_gradients:
        return 0.0
    return 2 * given.shape.num_layers * BF16 * given.shape.hidden_size


def top_bytes(given: MemoryInput) -> float:
    """Copies of the hidden state around the final norm, alive while the last layer runs backward."""
    return TOP_COPIES * given.trainer.activation_bytes * given.shape.hidden_size


def loss_bytes(given: MemoryInput) -> float:
    """Bytes of the loss for all tokens of a forward pass, the gradient of the head that it gathers included."""
    kernel, shape, tokens = LOSSES[given.trainer.loss], given.shape, given.layout.tokens
    vocabulary = shape.vocab_size / given.layout.tp
    logits = kernel.logit_bytes * vocabulary * min(tokens, _chunk(given))
    hidden = (LOSS_HIDDEN_BYTES + given.trainer.compute_bytes - BF16) * shape.hidden_size * tokens
    return logits + hidden + head_gradient_bytes(given)


def _chunk(given: MemoryInput) -> float:
    kernel = LOSSES[given.trainer.loss]
    if kernel.by_width:
        return given.layout.tokens * given.shape.hidden_size / given.shape.vocab_size
    return (kernel.chunk_tokens and given.layout.chunk_tokens) or kernel.chunk_tokens or given.layout.tokens


def head_gradient_bytes(given: MemoryInput) -> float:
    """Gradient of a trained output head while the loss gathers it; other kernels make it in backward only."""
    each = given.trainer.compute_bytes
    return trained_head_bytes(given) * (LOSSES[given.trainer.loss].head_gradient or each) / each


def trained_head_bytes(given: MemoryInput) -> float:
    """Gradient of a trained output head in the compute type: the first that backward makes."""
    if given.layout.adapters:
        return 0.0
    return given.trainer.compute_bytes * given.shape.vocab_size * given.shape.hidden_size / given.layout.tp
