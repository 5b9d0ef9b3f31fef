"""FSDP2: every tensor sharded by rows, each layer gathered when it is needed."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed import device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from trainer.config import TrainerConfig
from trainer.data.pack.batch import Batch
from trainer.engines.base import (
    KINDS,
    Engine,
    Range,
    adamw,
    fresh_moments,
    materialise_moments,
    parameter_groups,
    rank_device,
    set_learning_rate,
)
from trainer.model.build import DTYPES
from trainer.model.sharing import materialise, receive, share_buffers, take_weights
from trainer.model.supervised import SupervisedModel, decoder_layers, trainable_parameters


class Fsdp2Engine(Engine):
    """`fully_shard` on every decoder layer and on the whole."""

    def __init__(self, model: SupervisedModel, config: TrainerConfig) -> None:
        execution = config.execution
        self.device = rank_device(execution.device)
        self.model = model
        if model.shared:
            self._shard_from_first_rank(config)
        else:
            model.to(self.device)
            self._shard(config)
        self.optimizer = adamw(parameter_groups(model, config.training), config.training)
        fresh_moments(self.optimizer, self._trainable())
        self._max_grad_norm = config.training.max_grad_norm or float("inf")

    def _shard_from_first_rank(self, config: TrainerConfig) -> None:
        """Shard the skeleton, then fill each rank's rows from the first rank's weights, one tensor at a time."""
        held = take_weights(self.model)
        share_buffers(self.model, self.device)
        types = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
        self._shard(config)
        materialise(self.model, self.device)
        for name, parameter in self.model.named_parameters():
            whole = receive(held.pop(name, None), parameter.shape, types[name], self.device)
            local = _local(parameter)
            start, _ = _place(parameter)
            local.reshape(-1).copy_(whole.reshape(-1)[start : start + local.numel()])

    def _shard(self, config: TrainerConfig) -> None:
        mesh = device_mesh.init_device_mesh(config.execution.device, (config.execution.world_size,))
        compute = DTYPES[str(config.model.dtype)]
        # Inputs stay as they are: FSDP would walk into the batch, cast the loss weights, and copy the masks that layers
        # share for every layer. Hidden states have the type of the gathered embeddings.
        policy = MixedPrecisionPolicy(
            param_dtype=None if compute is torch.float32 else compute,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for layer in decoder_layers(self.model):
            fully_shard(
                layer, mesh=mesh, mp_policy=policy, reshard_after_forward=config.execution.reshard_after_forward
            )
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        for unit in self._units():
            unit.set_gradient_divide_factor(1.0)  # gradients are summed: the loss is already divided
            unit.set_force_sum_reduction_for_comms(True)

    def _units(self) -> list[FSDPModule]:
        """The modules that are gathered and freed as one."""
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def micro_step(self, batch: Batch, scale: float, last: bool) -> torch.Tensor:
        self.model.train()
        loss: torch.Tensor = self.model(batch)
        (loss * scale).backward()
        return loss.detach()

    def optimizer_step(self, learning_rate: float) -> torch.Tensor:
        norm = nn.utils.clip_grad_norm_(self._trainable(), self._max_grad_norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> torch.Tensor:
        self.model.eval()
        try:
            loss: torch.Tensor = self.model(batch, plain=True)
            return loss
        finally:  # what a backward pass would have freed: whole tensors have neither a place nor an optimizer's state
            for unit in self._units():
                unit.reshard()

    def ranges(self) -> list[Range]:
        found = []
        for name, parameter in trainable_parameters(self.model):
            start, shape = _place(parameter)
            state = self.optimizer.state[parameter]
            for kind in KINDS:
                local = _local(parameter if kind == "param" else state[kind])
                found.append(Range(name, kind, start, shape, local.reshape(-1)))
        return found

    def full_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient

    def after_load(self, step: int) -> None:
        materialise_moments(self.optimizer, self._trainable(), step)

    def _trainable(self) -> list[torch.Tensor]:
        return [parameter for _, parameter in trainable_parameters(self.model)]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _place(parameter: nn.Parameter) -> tuple[int, tuple[int, ...]]:
    """First element of this rank's rows in the flattened tensor, and the whole shape."""
    assert isinstance(parameter, DTensor)
    shape = tuple(parameter.shape)
    _, offset = compute_local_shape_and_global_offset(shape, parameter.device_mesh, parameter.placements)
    row = 1
    for size in shape[1:]:
        row *= size
    return offset[0] * row if shape else 0, shape
