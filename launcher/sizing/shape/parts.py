"""What a model consists of: tensors, linear projections, and layers made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One parameter of the model: its name in Hugging Face layout, and its dimensions."""

    name: str
    dims: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """Elements of this tensor."""
        return prod(self.dims)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear projection inside a layer, or the same projection of every expert.

    Attributes:
        name: Its name inside the layer; `*` stands for the expert's number.
        inputs: Width that it reads.
        outputs: Width that it writes.
        bias: Whether it has a bias.
        copies: How often a layer holds it: once, or once per expert.
        active: How many of the copies one token passes.
        ranks: How many times the rank its adapters have: two, where PEFT adapts two fused projections as one.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    active: int = 1
    ranks: int = 1

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to routed experts."""
        return self.copies > 1

    @property
    def weights(self) -> int:
        """Numbers in the weights of all copies, without biases."""
        return self.inputs * self.outputs * self.copies

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all copies."""
        return self.weights + (self.outputs * self.copies if self.bias else 0)

    @property
    def active_parameters(self) -> int:
        """Weights and biases that one token passes."""
        return self.num_parameters * self.active // self.copies

    def tensors(self, prefix: str) -> Iterator[Tensor]:
        """Weight and, where there is one, bias, of every copy."""
        for index in range(self.copies):
            name = prefix + self.name.replace("*", str(index))
            yield Tensor(name=f"{name}.weight", dims=(self.outputs, self.inputs))
            if self.bias:
                yield Tensor(name=f"{name}.bias", dims=(self.outputs,))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder layer: projections, and what else it learns (norms, sinks, routers' corrections)."""

    linears: tuple[Linear, ...]
    others: tuple[Tensor, ...] = ()

    def tensors(self, prefix: str = "") -> Iterator[Tensor]:
        """Every parameter of the layer."""
        for linear in self.linears:
            yield from linear.tensors(prefix)
        for other in self.others:
            yield Tensor(name=prefix + other.name, dims=other.dims)

    @cached_property
    def num_parameters(self) -> int:
        """All parameters of the layer."""
        linears = sum(linear.num_parameters for linear in self.linears)
        return linears + sum(other.num_parameters for other in self.others)

    @cached_property
    def active_parameters(self) -> int:
        """Those that one token passes."""
        return sum(linear.active_parameters for linear in self.linears) + sum(o.num_parameters for o in self.others)

    @cached_property
    def linear_weights(self) -> int:
        """Numbers in the weights of the projections: what a quantised load packs."""
        return sum(linear.weights for linear in self.linears)

    @property
    def has_experts(self) -> bool:
        """Whether tokens are routed in this layer."""
        return any(linear.is_expert for linear in self.linears)
