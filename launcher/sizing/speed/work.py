"""What one token costs: matrix products, attention, memory traffic, by layer. Counts only, no hardware.

Symbols: h hidden size, q and k the widths of all query and key heads, f the MLP's width, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Work:
    """The dimensions of a decoder that decide its speed.

    Attributes:
        layers: Number of layers.
        hidden: h.
        heads: Query heads.
        query: q.
        kv: k.
        ffn: f of the MLP, or of one expert.
        vocab: V.
        gated: Whether the MLP has a gate (three matrices) or not (two).
        experts: Experts of a layer; 1 is a dense MLP.
        active: Experts that one token visits.
        shared_ffn: Width of an MLP that every token visits beside its experts.
        rotary: Whether queries and keys are rotated.
        tied: Whether the output head is the embedding.
    """

    layers: int
    hidden: int
    heads: int
    query: int
    kv: int
    ffn: int
    vocab: int
    gated: bool = True
    experts: int = 1
    active: int = 1
    shared_ffn: int = 0
    rotary: bool = True
    tied: bool = False

    @property
    def mlp_matrices(self) -> int:
        """Matrices of one MLP."""
        return 3 if self.gated else 2

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's four attention projections."""
        return self.hidden * (2 * self.query + 2 * self.kv)

    @property
    def active_mlp_parameters(self) -> int:
        """Weights of one layer's MLP that one token meets, the router among them."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        return self.mlp_matrices * self.hidden * (self.active * self.ffn + self.shared_ffn) + router

    @property
    def total_mlp_parameters(self) -> int:
        """Weights of all experts of one layer."""
        return self.mlp_matrices * self.hidden * (self.experts * self.ffn + self.shared_ffn)

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, all experts counted."""
        return self.attention_parameters + self.total_mlp_parameters

    @property
    def active_layer_parameters(self) -> int:
        """Weights of one layer that one token meets."""
        return self.attention_parameters + self.active_mlp_parameters

    @property
    def head_parameters(self) -> int:
        """Weights of the output head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights but norms and biases: good to a tenth of a percent."""
        return self.layers * self.layer_parameters + self.head_parameters * (1 if self.tied else 2)

    @property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied with, the output head among them, the embedding not."""
        return self.layers * self.active_layer_parameters + self.head_parameters


def work_of(shape: ModelShape | Work) -> Work:
    """The dimensions that decide speed, from a model's shape."""
    if isinstance(shape, Work):
        return shape
    return Work(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        heads=shape.num_heads,
        query=shape.query_size,
        kv=shape.kv_size,
        ffn=shape.intermediate_size,
        vocab=shape.vocab_size,
        gated=shape.gated_mlp,
        experts=max(1, shape.num_experts),
        active=max(1, shape.experts_per_token),
        shared_ffn=_shared_width(shape),
        rotary=shape.rms_norm,
        tied=shape.tied_embeddings,
    )


def _shared_width(shape: ModelShape) -> int:
    """Width of the experts that every token visits, from the projections that bear their name."""
    shared = [linear for linear in shape.linears if "shared" in linear.name and linear.outputs > 1]
    matrices = 3 if shape.gated_mlp else 2
    return sum(linear.weights for linear in shared) // (matrices * shape.hidden_size)


def attention_flops(work: Work, attended: float) -> float:
    """Forward FLOPs per token and layer of scores and weighted values over `attended` keys: 2 products of 2 q."""
    return 4 * work.query * attended


def model_flops(work: Work, *, trained: bool, attended: float) -> float:
    """FLOPs per token that the task needs, without recomputation: 6 N for full, 4 N where weights are frozen.

    Frozen weights need no gradient of their own (Hu et al. 2021, LoRA); attention has none either way. Half of
    the attention is counted, as a causal mask asks for half.
    """
    passes = 3 if trained else 2
    attention = 3 * work.layers * attention_flops(work, attended / 2)
    return passes * 2 * work.active_parameters + attention
