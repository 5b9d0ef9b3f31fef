"""The shape of a whole model: its widths, its layers, and exact counts of its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from launcher.sizing.shape.parts import Layer, Linear, Tensor


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything about a decoder's size that sizing needs.

    Attributes:
        model_type: As in `config.json`.
        intermediate_size: Width of a dense MLP, or of one expert.
        num_kv_heads: Key heads; 1 with multi-query attention.
        layers: One entry per layer, in order.
        root: Parameters outside the layers: embeddings, final norm, output head.
        layer_prefix: Name of a layer, `{}` for its number.
        gated_mlp: Gate and up beside each other (SwiGLU, GeGLU); otherwise up, activation, down.
        rms_norm: RMSNorm, which Transformers computes on a float32 copy; otherwise a fused LayerNorm.
        norms_per_layer: Norms of hidden size in one layer.
        experts_per_token: Experts that a token passes; 0 without experts.
        num_experts: Routed experts of a layer; 0 without.
        parallel_residual: Attention and MLP read the same norm (GPT-NeoX, Falcon).
        name: Name in the catalogue, or empty.
        counted: Where the tensors of an architecture that nobody described were counted; else empty.
        notes: What is not exact about this shape.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    layers: tuple[Layer, ...]
    root: tuple[Tensor, ...]
    layer_prefix: str = "model.layers.{}."
    gated_mlp: bool = True
    rms_norm: bool = True
    norms_per_layer: int = 2
    experts_per_token: int = 0
    num_experts: int = 0
    parallel_residual: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    name: str = ""
    counted: str = ""
    notes: tuple[str, ...] = ()

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The projections of the last layer, under their names inside it; the first may be a dense exception."""
        return self.layers[-1].linears

    def linear_counts(self) -> list[tuple[Linear, int]]:
        """Every kind of projection in the layers, with the number of layers that have it."""
        return list(self._counted)

    @cached_property
    def _counted(self) -> tuple[tuple[Linear, int], ...]:
        counts: Counter[Linear] = Counter()
        for layer, times in self.kinds:
            counts.update(dict.fromkeys(layer.linears, times))
        return tuple(counts.items())

    @cached_property
    def kinds(self) -> tuple[tuple[Layer, int], ...]:
        """Different layers, each with how often it occurs; most models have one kind."""
        same = {id(layer): layer for layer in self.layers}
        times = Counter(map(id, self.layers))
        return tuple((same[key], count) for key, count in times.items())

    @cached_property
    def largest_layer(self) -> Layer:
        """The layer with most parameters."""
        return max((layer for layer, _ in self.kinds), key=lambda layer: layer.num_parameters)

    def tensors(self) -> Iterator[Tensor]:
        """Every parameter of the model; a tied output head is not counted again."""
        yield from self.root
        for index, layer in enumerate(self.layers):
            yield from layer.tensors(self.layer_prefix.format(index))

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of the largest decoder layer."""
        return self.largest_layer.num_parameters

    @cached_property
    def root_parameters(self) -> int:
        """Parameters outside the layers: embeddings, final norm, output head."""
        return sum(tensor.num_parameters for tensor in self.root)

    @cached_property
    def num_parameters(self) -> int:
        """All parameters, to the last one."""
        return self.root_parameters + sum(layer.num_parameters for layer in self.layers)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes: all but the experts that it is not routed to."""
        return self.root_parameters + sum(layer.active_parameters for layer in self.layers)

    @cached_property
    def linear_weights(self) -> int:
        """Numbers in the projections of all layers: what a quantised load packs."""
        return sum(layer.linear_weights for layer in self.layers)
