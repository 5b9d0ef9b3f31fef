"""Which tensors a layer of each known model family has.

Each family is one row of `ARCHITECTURES`. Most are a Llama with small differences, which the row names; the others
(GPT-NeoX, OPT, Falcon, ...) have a function of their own. Counts equal those of Transformers' classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.sizing.shape.parts import Layer, Linear, Tensor
from launcher.sizing.shape.widths import Widths

Build = Callable[[Widths, "Architecture"], list[Layer]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What sets one model type apart from a plain Llama.

    Attributes:
        qkv_bias: Bias of the query, key and value projections; `None` means that `attention_bias` decides.
        output_bias: Bias of the attention's output projection; `None` means that `attention_bias` decides.
        mlp_bias_key: Configuration key that gives the MLP's projections a bias, if there is one.
        norms_per_layer: Norms of hidden size in one layer.
        qk_norm: Norms of queries and keys: `""`, `head` (one of head size each) or `full` (whole widths).
        fused: Query, key and value are one matrix, and so are gate and up (Phi-3).
        tied_by_default: What a missing `tie_word_embeddings` means.
        head_dim_default: What a missing `head_dim` means; `None` is hidden size over heads.
        kv_heads_default: What a missing `num_key_value_heads` means; `None` is the number of heads.
        layers: Builds the layers; `None` is Llama's.
        norm: `rms` (a weight), `layer` (weight and bias) or `weight` (LayerNorm without bias).
        gated: Gate and up projections; otherwise one.
        positions: Key of the configuration that counts learned positions, with an offset (OPT has 2).
        prefix: Name of a layer.
        parallel: Attention and MLP read the same norm.
    """

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias_key: str | None = None
    norms_per_layer: int = 2
    qk_norm: str = ""
    fused: bool = False
    tied_by_default: bool = False
    head_dim_default: int | None = None
    kv_heads_default: int | None = None
    layers: Build | None = None
    norm: str = "rms"
    gated: bool = True
    positions: tuple[str, int] | None = None
    prefix: str = "model.layers.{}."
    parallel: bool = False


def norm(name: str, width: int, kind: str) -> tuple[Tensor, ...]:
    """Weight and, for a LayerNorm, bias of one norm."""
    parts = ("weight", "bias") if kind == "layer" else ("weight",)
    return tuple(Tensor(name=f"{name}.{part}", dims=(width,)) for part in parts)


NORM_NAMES = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _norms(w: Widths, arch: Architecture) -> tuple[Tensor, ...]:
    norms = [part for name in NORM_NAMES[: arch.norms_per_layer] for part in norm(name, w.hidden, arch.norm)]
    if not arch.qk_norm:
        return tuple(norms)
    sizes = (w.head_dim, w.head_dim) if arch.qk_norm == "head" else (w.query, w.kv)
    return (*norms, *(Tensor(name=f"self_attn.{n}_norm.weight", dims=(s,)) for n, s in zip("qk", sizes, strict=True)))


def _attention(w: Widths, arch: Architecture) -> tuple[Linear, ...]:
    asked = bool(w.setting("attention_bias", False))
    bias = asked if arch.qkv_bias is None else arch.qkv_bias
    out_bias = asked if arch.output_bias is None else arch.output_bias
    names = {"qkv_proj": w.query + 2 * w.kv} if arch.fused else {"q_proj": w.query, "k_proj": w.kv, "v_proj": w.kv}
    reads = [Linear(name=f"self_attn.{n}", inputs=w.hidden, outputs=out, bias=bias) for n, out in names.items()]
    return (*reads, Linear(name="self_attn.o_proj", inputs=w.query, outputs=w.hidden, bias=out_bias))


def _mlp(
    w: Widths, arch: Architecture, ffn: int = 0, prefix: str = "mlp.", copies: int = 1, active: int = 1
) -> tuple[Linear, ...]:
    f, h = ffn or w.ffn, w.hidden
    bias = bool(arch.mlp_bias_key and w.setting(arch.mlp_bias_key, False))
    names = {"gate_up_proj": (h, 2 * f)} if arch.fused else {"gate_proj": (h, f), "up_proj": (h, f)}
    sizes = names | {"down_proj": (f, h)}
    return tuple(
        Linear(name=prefix + n, inputs=i, outputs=o, bias=bias, copies=copies, active=active)
        for n, (i, o) in sizes.items()
    )


def llama_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Attention, gated MLP, norms; the same in every layer."""
    return [Layer(linears=(*_attention(w, arch), *_mlp(w, arch)), others=_norms(w, arch))] * w.layers


def _is_sparse(w: Widths, index: int) -> bool:
    """Whether a Qwen MoE layer has experts (`mlp_only_layers`, `decoder_sparse_step`)."""
    step = w.setting("decoder_sparse_step", 1)
    return index not in w.setting("mlp_only_layers", []) and (index + 1) % step == 0


def _experts(w: Widths, arch: Architecture, count: int, ffn: int, top: int) -> tuple[Linear, ...]:
    gate = Linear(name="mlp.gate", inputs=w.hidden, outputs=count)
    return (gate, *_mlp(w, arch, ffn, "mlp.experts.*.", count, top))


def qwen_moe_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Qwen's experts, with a shared one in Qwen 2 MoE."""
    count, ffn = w.count("num_experts"), w.count("moe_intermediate_size")
    sparse: tuple[Linear, ...] = _experts(w, arch, count, ffn, w.setting("num_experts_per_tok", 2))
    shared = w.setting("shared_expert_intermediate_size", 0)
    if shared:
        gate = Linear(name="mlp.shared_expert_gate", inputs=w.hidden, outputs=1)
        sparse = (*sparse, *_mlp(w, arch, shared, "mlp.shared_expert."), gate)
    attention, norms = _attention(w, arch), _norms(w, arch)
    kinds = {True: Layer(linears=(*attention, *sparse), others=norms)}
    kinds[False] = Layer(linears=(*attention, *_mlp(w, arch)), others=norms)
    return [kinds[_is_sparse(w, index)] for index in range(w.layers)]


def mixtral_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Mixtral: a router, and experts of w1 (gate), w3 (up), w2 (down)."""
    count, top, base = w.count("num_local_experts"), w.count("num_experts_per_tok"), "block_sparse_moe."
    sizes = {"w1": (w.hidden, w.ffn), "w2": (w.ffn, w.hidden), "w3": (w.hidden, w.ffn)}
    experts = [
        Linear(name=f"{base}experts.*.{n}", inputs=i, outputs=o, copies=count, active=top)
        for n, (i, o) in sizes.items()
    ]
    gate = Linear(name=f"{base}gate", inputs=w.hidden, outputs=count)
    return [Layer(linears=(*_attention(w, arch), gate, *experts), others=_norms(w, arch))] * w.layers


def granite_moe_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Granite MoE: experts in two stacked matrices, with a shared MLP in the shared variant."""
    count, top, base = w.count("num_local_experts"), w.count("num_experts_per_tok"), "block_sparse_moe."
    experts: tuple[Linear, ...] = (
        Linear(name=f"{base}router.layer", inputs=w.hidden, outputs=count),
        Linear(name=f"{base}input_linear", inputs=w.hidden, outputs=2 * w.ffn, copies=count, active=top),
        Linear(name=f"{base}output_linear", inputs=w.ffn, outputs=w.hidden, copies=count, active=top),
    )
    if shared := w.setting("shared_intermediate_size", 0):
        experts += (
            Linear(name="shared_mlp.input_linear", inputs=w.hidden, outputs=2 * shared),
            Linear(name="shared_mlp.output_linear", inputs=shared, outputs=w.hidden),
        )
    return [Layer(linears=(*_attention(w, arch), *experts), others=_norms(w, arch))] * w.layers


def deepseek_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """DeepSeek 2 and 3: latent attention, dense layers first, then routed and shared experts."""
    ffn, count = w.count("moe_intermediate_size"), w.count("n_routed_experts")
    sparse = _experts(w, arch, count, ffn, w.setting("num_experts_per_tok", 1))
    shared = _mlp(w, arch, ffn * w.setting("n_shared_experts", 1), "mlp.shared_experts.")
    correction: tuple[Tensor, ...] = ()
    if w.setting("topk_method") == "noaux_tc" or w.config["model_type"] == "deepseek_v3":
        correction = (Tensor(name="mlp.gate.e_score_correction_bias", dims=(count,)),)
    attention, inner = _latent_attention(w)
    norms = (*_norms(w, arch), *inner)
    dense = Layer(linears=(*attention, *_mlp(w, arch)), others=norms)
    routed = Layer(linears=(*attention, *sparse, *shared), others=(*norms, *correction))
    first = w.setting("first_k_dense_replace", 0)
    return [dense] * first + [routed] * (w.layers - first)


def _latent_attention(w: Widths) -> tuple[tuple[Linear, ...], tuple[Tensor, ...]]:
    """Multi-head latent attention: queries and keys through low-rank projections with norms between."""
    rope, nope, value = (w.count(k) for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    q_rank, kv_rank, out = w.setting("q_lora_rank", 0), w.count("kv_lora_rank"), w.heads * (nope + rope)
    pairs = {"kv_a_proj_with_mqa": (w.hidden, kv_rank + rope), "kv_b_proj": (kv_rank, w.heads * (nope + value))}
    pairs |= {"q_a_proj": (w.hidden, q_rank), "q_b_proj": (q_rank, out)} if q_rank else {"q_proj": (w.hidden, out)}
    pairs["o_proj"] = (w.heads * value, w.hidden)
    norms = {"kv_a_layernorm": kv_rank} | ({"q_a_layernorm": q_rank} if q_rank else {})
    return (
        tuple(Linear(name=f"self_attn.{n}", inputs=i, outputs=o) for n, (i, o) in pairs.items()),
        tuple(Tensor(name=f"self_attn.{n}.weight", dims=(size,)) for n, size in norms.items()),
    )


def glm_moe_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """GLM 4 MoE: DeepSeek's routing on plain attention."""
    ffn, count = w.count("moe_intermediate_size"), w.count("n_routed_experts")
    sparse = _experts(w, arch, count, ffn, w.count("num_experts_per_tok"))
    shared = _mlp(w, arch, ffn * w.setting("n_shared_experts", 1), "mlp.shared_experts.")
    attention, norms = _attention(w, arch), _norms(w, arch)
    correction = Tensor(name="mlp.gate.e_score_correction_bias", dims=(count,))
    dense = Layer(linears=(*attention, *_mlp(w, arch)), others=norms)
    routed = Layer(linears=(*attention, *sparse, *shared), others=(*norms, correction))
    first = w.setting("first_k_dense_replace", 1)
    return [dense] * first + [routed] * (w.layers - first)


def gpt_oss_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """gpt-oss: biases everywhere, sinks in attention, experts in stacked matrices."""
    count, top = w.count("num_local_experts"), w.setting("num_experts_per_tok", 4)
    experts = (
        Linear(name="mlp.router", inputs=w.hidden, outputs=count, bias=True),
        Linear(name="mlp.experts.gate_up", inputs=w.hidden, outputs=2 * w.ffn, bias=True, copies=count, active=top),
        Linear(name="mlp.experts.down", inputs=w.ffn, outputs=w.hidden, bias=True, copies=count, active=top),
    )
    sinks = Tensor(name="self_attn.sinks", dims=(w.heads,))
    return [Layer(linears=(*_attention(w, arch), *experts), others=(*_norms(w, arch), sinks))] * w.layers


def plain_layers(
    names: tuple[str, str, str, str], norms: tuple[str, ...], *, bias: bool = True, kind: str = "layer"
) -> Build:
    """Builder of GPT-like layers: one matrix for query, key and value, one for output, and an MLP without gate.

    Args:
        names: Of the four projections: query-key-value, output, up, down.
        norms: Names of the norms of one layer.
        bias: Whether projections have biases when the configuration says nothing.
        kind: Of the norms, as in `norm`.
    """

    def build(w: Widths, arch: Architecture) -> list[Layer]:
        has = bool(w.setting("bias", bias)) and not w.setting("no_bias", False)
        sizes = ((w.hidden, w.query + 2 * w.kv), (w.query, w.hidden), (w.hidden, w.ffn), (w.ffn, w.hidden))
        linears = tuple(Linear(name=n, inputs=i, outputs=o, bias=has) for n, (i, o) in zip(names, sizes, strict=True))
        parts = "weight" if w.setting("no_bias", False) else kind
        return [Layer(linears=linears, others=tuple(t for n in norms for t in norm(n, w.hidden, parts)))] * w.layers

    return build


def separate_layers(attention: str, output: str, up: str, down: str, norms: tuple[str, ...], bias: bool) -> Build:
    """Builder of layers with separate query, key and value and an MLP without gate (OPT, StarCoder 2, Phi)."""

    def build(w: Widths, arch: Architecture) -> list[Layer]:
        has = bool(w.setting("use_bias", w.setting("enable_bias", bias)))
        sizes = {f"{attention}q_proj": (w.hidden, w.query), f"{attention}k_proj": (w.hidden, w.kv)}
        sizes |= {f"{attention}v_proj": (w.hidden, w.kv), attention + output: (w.query, w.hidden)}
        sizes |= {up: (w.hidden, w.ffn), down: (w.ffn, w.hidden)}
        linears = tuple(Linear(name=n, inputs=i, outputs=o, bias=has) for n, (i, o) in sizes.items())
        return [Layer(linears=linears, others=tuple(t for n in norms for t in norm(n, w.hidden, "layer")))] * w.layers

    return build


def falcon_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Falcon: no gate, one or two norms before the parallel branches, biases only if asked."""
    double = w.setting("new_decoder_architecture", False)
    single = (
        ("input_layernorm",) if w.setting("parallel_attn", True) else ("input_layernorm", "post_attention_layernorm")
    )
    norms = ("ln_attn", "ln_mlp") if double else single
    names = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return plain_layers(names, norms, bias=False)(w, arch)


def qwen1_layers(w: Widths, arch: Architecture) -> list[Layer]:
    """Qwen 1: a biased query-key-value matrix, a gated MLP of half the configured width."""
    f = w.ffn // 2
    linears = (
        Linear(name="attn.c_attn", inputs=w.hidden, outputs=3 * w.query, bias=True),
        Linear(name="attn.c_proj", inputs=w.query, outputs=w.hidden),
        Linear(name="mlp.w1", inputs=w.hidden, outputs=f),
        Linear(name="mlp.w2", inputs=w.hidden, outputs=f),
        Linear(name="mlp.c_proj", inputs=f, outputs=w.hidden),
    )
    norms = (*norm("ln_1", w.hidden, "rms"), *norm("ln_2", w.hidden, "rms"))
    return [Layer(linears=linears, others=norms)] * w.layers


_GPT = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_NEOX = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_BLOOM = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_MPT = ("attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj")
_BEFORE = ("input_layernorm", "post_attention_layernorm")

_GPT2 = Architecture(
    layers=plain_layers(_GPT, ("ln_1", "ln_2")),
    norm="layer",
    gated=False,
    tied_by_default=True,
    positions=("n_positions", 0),
    prefix="transformer.h.{}.",
)

ARCHITECTURES: dict[str, Architecture] = {
    "gemma": Architecture(tied_by_default=True, head_dim_default=256, kv_heads_default=16),
    "gemma2": Architecture(norms_per_layer=4, tied_by_default=True, head_dim_default=256, kv_heads_default=4),
    "llama": Architecture(mlp_bias_key="mlp_bias"),
    "mistral": Architecture(qkv_bias=False, output_bias=False, kv_heads_default=8),
    "phi3": Architecture(qkv_bias=False, output_bias=False, fused=True),
    "qwen2": Architecture(qkv_bias=True, output_bias=False, kv_heads_default=32),
    "qwen3": Architecture(qk_norm="head", head_dim_default=128, kv_heads_default=32),
    "gemma3_text": Architecture(
        norms_per_layer=4, qk_norm="head", tied_by_default=True, head_dim_default=256, kv_heads_default=4
    ),
    "mixtral": Architecture(qkv_bias=False, output_bias=False, kv_heads_default=8, layers=mixtral_layers),
    "qwen2_moe": Architecture(qkv_bias=True, output_bias=False, layers=qwen_moe_layers),
    "qwen3_moe": Architecture(qk_norm="head", layers=qwen_moe_layers, kv_heads_default=4),
    "granite": Architecture(mlp_bias_key="mlp_bias"),
    "granitemoe": Architecture(layers=granite_moe_layers),
    "granitemoeshared": Architecture(layers=granite_moe_layers),
    "olmo2": Architecture(qk_norm="full"),
    "glm4_moe": Architecture(qk_norm="", qkv_bias=None, output_bias=False, layers=glm_moe_layers),
    "deepseek_v2": Architecture(layers=deepseek_layers),
    "deepseek_v3": Architecture(layers=deepseek_layers),
    "gpt_oss": Architecture(qkv_bias=True, output_bias=True, head_dim_default=64, layers=gpt_oss_layers),
    "stablelm": Architecture(output_bias=False, norm="layer"),
    "cohere": Architecture(norms_per_layer=1, norm="weight", tied_by_default=True, parallel=True),
    "gpt_neox": Architecture(
        layers=plain_layers(_NEOX, _BEFORE), norm="layer", gated=False, parallel=True, prefix="gpt_neox.layers.{}."
    ),
    "falcon": Architecture(
        layers=falcon_layers, norm="layer", gated=False, tied_by_default=True, parallel=True, prefix="transformer.h.{}."
    ),
    "mpt": Architecture(
        layers=plain_layers(_MPT, ("norm_1", "norm_2"), bias=False),
        norm="weight",
        gated=False,
        tied_by_default=True,
        prefix="transformer.blocks.{}.",
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "bloom": Architecture(
        layers=plain_layers(_BLOOM, _BEFORE),
        norm="layer",
        gated=False,
        tied_by_default=True,
        prefix="transformer.h.{}.",
    ),
    "opt": Architecture(
        layers=separate_layers(
            "self_attn.", "out_proj", "fc1", "fc2", ("self_attn_layer_norm", "final_layer_norm"), True
        ),
        norm="layer",
        gated=False,
        tied_by_default=True,
        positions=("max_position_embeddings", 2),
        prefix="model.decoder.layers.{}.",
    ),
    "starcoder2": Architecture(
        layers=separate_layers("self_attn.", "o_proj", "mlp.c_fc", "mlp.c_proj", _BEFORE, True),
        norm="layer",
        gated=False,
        tied_by_default=True,
    ),
    "phi": Architecture(
        layers=separate_layers("self_attn.", "dense", "mlp.fc1", "mlp.fc2", ("input_layernorm",), True),
        norm="layer",
        gated=False,
        parallel=True,
    ),
    "qwen": Architecture(layers=qwen1_layers, prefix="transformer.h.{}."),
}
"""Every model type that is known, by its name in `config.json`."""
