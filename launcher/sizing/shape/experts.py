"""Which adapters PEFT makes on experts.

Transformers keeps the experts of a layer in stacked parameters. For some families PEFT translates the names of their
single projections to these: gate and up are then one adapter of twice the rank for each expert, the router has one,
and dense or shared projections of the same names get none. Experts of all other families get no adapters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from launcher.errors import JobError
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Linear

LIKE_MIXTRAL = frozenset(["minimax", "minimax_m2", "mixtral"])
QWEN_NAMES = """
afmoe beam cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5_moe exaone_moe flex_olmo
glm4_moe glm4_moe_lite glm4v_moe glm_moe_dsa hunyuan_v1_moe longcat_flash mellum olmoe qwen3_moe
qwen3_next qwen3_omni_moe qwen3_omni_moe_text qwen3_omni_moe_thinker solar_open
"""
LIKE_QWEN = frozenset(QWEN_NAMES.split())
PAIRS = {"mixtral": ("w1", "w3", "w2"), "qwen": ("gate_proj", "up_proj", "down_proj")}
ROUTERS = ("mlp.gate", "block_sparse_moe.gate", "mlp.router", "block_sparse_moe.router.layer")


def are_converted(shape: ModelShape) -> bool:
    """Whether PEFT makes adapters for the experts of this family."""
    return shape.num_experts > 0 and shape.model_type in LIKE_MIXTRAL | LIKE_QWEN


def names_of(shape: ModelShape) -> frozenset[str]:
    """The names that PEFT translates; none where it does not."""
    return frozenset((*_names(shape), "gate")) if are_converted(shape) else frozenset()


def is_hidden(linear: Linear) -> bool:
    """Whether a projection lies in stacked parameters or a router, which PEFT does not see as linear layers."""
    return linear.is_expert or linear.name in ROUTERS


def without_adapters(shape: ModelShape, chosen: Iterable[tuple[Linear, int]]) -> bool:
    """Whether a model has routed experts, and none of them gets an adapter."""
    return shape.num_experts > 0 and not any(linear.is_expert for linear, _ in chosen)


def adapted(shape: ModelShape, wanted: set[str]) -> list[tuple[Linear, int]]:
    """The adapters of experts and routers that some names make, each as one projection.

    Raises:
        JobError: only one of two fused projections is named.
    """
    gate, up, down = _names(shape)
    if (gate in wanted) != (up in wanted):
        have, lack = (gate, up) if gate in wanted else (up, gate)
        raise JobError(f"{have} of the experts cannot get adapters without {lack}: they are one", f"Add {lack}.")
    found: list[tuple[Linear, int]] = []
    for layer, count in shape.kinds:
        experts = [linear for linear in layer.linears if linear.is_expert]
        pair = [linear for linear in experts if _leaf(linear) in (gate, up, "gate_up_proj")]
        if gate in wanted and pair:
            width = sum(linear.outputs for linear in pair)
            found.append((replace(pair[0], name="mlp.experts.gate_up_proj", outputs=width, ranks=2), count))
        if down in wanted:
            found += [(linear, count) for linear in experts if _leaf(linear) in (down, "down_proj")]
        if "gate" in wanted:
            routers = [linear for linear in layer.linears if _leaf(linear) == "gate" and not linear.is_expert]
            routers += [
                Linear(name=tensor.name.removesuffix(".weight"), inputs=tensor.dims[1], outputs=tensor.dims[0])
                for tensor in layer.others
                if tensor.name.endswith(".gate.weight") and len(tensor.dims) == 2
            ]
            found += [(linear, count) for linear in routers]
    return found


def _names(shape: ModelShape) -> tuple[str, str, str]:
    return PAIRS["mixtral" if shape.model_type in LIKE_MIXTRAL else "qwen"]


def _leaf(linear: Linear) -> str:
    return linear.name.rpartition(".")[2]
