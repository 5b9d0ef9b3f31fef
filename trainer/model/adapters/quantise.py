"""QLoRA: the frozen linear layers in 4-bit NormalFloat or 8-bit integers, through bitsandbytes.

No engine knows of the quantised weights: they are no parameters, so ZeRO-3 and FSDP2 shard the rest, and what is
shared out, gathered, broadcast or cast by any engine never meets packed bytes. Every rank holds all of them, or, with
`execution.shard_quantized`, a part of each (`trainer.model.adapters.quantised_shards`). Of PEFT's
`prepare_model_for_kbit_training` nothing is used: PEFT freezes the base anyway, embeddings and the output layer in
float32 would double what quantising left of them (norms compute in float32 by themselves), and inputs need gradients
only for reentrant checkpointing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from trainer.config import MethodConfig
from trainer.errors import UserError
from trainer.model.adapters.quantised_shards import shard_of

QUANTISED = ("Linear4bit", "Linear8bitLt")
PACKS_FOR_INFERENCE = "support_avx512bf16_for_cpu"

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns in every call that 8-bit layers cast to float16


def loading_options(method: MethodConfig, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise every linear layer but the output layer while it loads.

    Args:
        device: "cpu" or "cuda", where weights are quantised, one after the other, and stay.
        dtype: in which the layers compute.
    """
    if method.quantization is None:
        return {}
    if method.quantization == "int8":
        chosen = BitsAndBytesConfig(load_in_8bit=True)
    else:
        chosen = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=method.double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    place = torch.cuda.current_device() if device == "cuda" else "cpu"
    return {"quantization_config": chosen, "device_map": {"": place}}


def refuse_quantised_checkpoint(path: str, config: Any) -> None:
    """
    Args:
        config: of the model, as Transformers reads it.

    Raises:
        UserError: the model's weights are stored quantised; there would be nothing exact to merge adapters into.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        how = (stored if isinstance(stored, dict) else stored.to_dict()).get("quant_method", "some method")
        raise UserError(
            f"the weights in {path} are quantised already ({getattr(how, 'value', how)})",
            remedy="take the model in full precision; `method.quantization: nf4` quantises it while it loads",
        )


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and modules of the layers whose weights are quantised."""
    for name, module in model.named_modules():
        if type(module).__name__ in QUANTISED and isinstance(module, nn.Linear):  # PEFT's wrappers are no nn.Linear
            yield name, module


def stored_tensors(model: nn.Module) -> list[torch.Tensor]:
    """What the quantised layers keep in place of their weights: packed numbers and the scales of their blocks."""
    found: list[Any] = []
    for _, layer in quantised_layers(model):
        shard, is_8bit = shard_of(layer), type(layer).__name__ == "Linear8bitLt"
        state = layer.state if is_8bit else layer.weight.quant_state
        if shard:  # the tensors that it took over have no memory of their own
            found.append(shard.part)
        else:
            found += [state.CB] if is_8bit else [layer.weight.data, state.absmax]
        found += [state.SCB] if is_8bit else [state.state2.absmax, state.offset] if state.nested else []
    return found


def hide_quantised_weights(model: nn.Module, method: MethodConfig) -> None:
    """Take the quantised weights out of the parameters of `model`; layers work and move between devices as before.

    Called when the adapters are there: PEFT looks at the parameters to find out what it adapts.

    Raises:
        UserError: nothing was quantised.
    """
    layers = [module for _, module in quantised_layers(model)]
    if method.quantization and not layers:
        raise UserError(
            f"method.quantization is {method.quantization}, but the model has no linear layers that it could act on",
            remedy="remove it",
        )
    for module in layers:
        weight = module._parameters.pop("weight")
        module.__class__ = _hiding(type(module))  # type: ignore[arg-type]  # classes are hashable
        module.weight = weight
        if hasattr(module, PACKS_FOR_INFERENCE):
            setattr(module, PACKS_FOR_INFERENCE, False)


@cache
def _hiding(layer: Any) -> Any:
    """The same class of layer, under the same name, by which PEFT knows it, with its weight hidden."""
    return type(layer.__name__, (_HiddenWeight, layer), {"__module__": layer.__module__})


class _HiddenWeight(nn.Module):
    """Part of a bitsandbytes layer whose weight is a plain attribute.

    An evaluation must not repack the weight: where the CPU has bfloat16 instructions, bitsandbytes does so for good,
    and training after it would get no gradient through the layer. Hence `PACKS_FOR_INFERENCE` is off.
    """

    state: Any
    weight: Any

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":  # DoRA's forward pass assigns it, which would register it again
            self.__dict__["weight"] = self._settled(value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        shard = shard_of(self)
        if shard is None:
            self.weight = fn(self.weight)
        elif fn(shard.part).device != shard.part.device:
            raise RuntimeError("sharded weights stay on the device on which they were quantised")
        return self

    def _settled(self, weight: Any) -> Any:
        """8-bit layers compute with `state`; bitsandbytes would fill it from a moved weight, which lost its scales."""
        if getattr(weight, "CB", None) is not None:
            scales = self.state.SCB if weight.SCB is None else weight.SCB
            self.state.CB, self.state.SCB = weight.CB, scales.to(weight.device)
            weight.CB = weight.SCB = None
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shard = shard_of(self)
        return self._product(x) if shard is None else shard.around(self._product, x)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = super().forward(x)
        _release_input(out.grad_fn)
        return out


def _release_input(node: Any) -> None:
    """8-bit layers keep their input where checkpointing cannot drop it, for a gradient that no frozen weight has."""
    if type(node).__name__ == "MatMul8bitFpBackward":
        node.A = None
    elif type(node).__name__ == "MatMul8bitLtBackward" and not node.is_empty:
        node.tensors = (None, None, None)
