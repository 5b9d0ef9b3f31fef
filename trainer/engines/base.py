"""What the training loop asks of an engine, and how an engine shows its state: as flat ranges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.config import TrainingConfig
from trainer.data.pack.batch import Batch
from trainer.model.supervised import SupervisedModel, trainable_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("param", *MOMENTS)


@dataclass(frozen=True)
class Range:
    """A contiguous part of one flattened tensor that this rank holds.

    Attributes:
        tensor: parameter name.
        kind: "param" (float32 master), "exp_avg" or "exp_avg_sq".
        start: first element, counted in the flattened tensor.
        shape: shape of the whole tensor.
        view: flat view of this rank's memory; writing to it changes the engine's state.
    """

    tensor: str
    kind: str
    start: int
    shape: tuple[int, ...]
    view: torch.Tensor


class Engine(ABC):
    """One model being trained over all ranks.

    Attributes:
        model: the module that the engine was built around.
        device: where this rank computes.
        replicated: every rank holds all of every tensor.
    """

    model: SupervisedModel
    device: torch.device
    replicated: bool = False

    @abstractmethod
    def micro_step(self, batch: Batch, scale: float, last: bool) -> torch.Tensor:
        """Forward and backward of one micro-batch.

        Args:
            batch: on `self.device`.
            scale: factor on the loss, the same on all ranks; gradients are summed over ranks and micro-steps.
            last: the step's last micro-batch.

        Returns:
            The weighted loss sum before scaling, detached, on the device.
        """

    @abstractmethod
    def optimizer_step(self, learning_rate: float) -> torch.Tensor:
        """Clip, update, clear gradients. Returns the gradient norm before clipping, a scalar tensor."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> torch.Tensor:
        """Weighted loss sum of a batch, without gradients or label smoothing."""

    @abstractmethod
    def ranges(self) -> list[Range]:
        """All state of this rank, as writable flat ranges, always in the same order."""

    @abstractmethod
    def full_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        """Summed gradient of a parameter, whole; a collective. Only between the last micro-step and the step."""

    @abstractmethod
    def after_load(self, step: int) -> None:
        """Make the state that was written into `ranges()` take effect, as after `step` optimizer steps."""


def rank_device(kind: str) -> torch.device:
    """Where this rank computes: its own GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")


def parameter_groups(model: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay for matrices, none for norms and biases. Empty groups are left out."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for _, parameter in trainable_parameters(model):
        groups[_is_matrix(parameter)].append(parameter)
    decays = {True: training.weight_decay, False: 0.0}
    return [{"params": found, "weight_decay": decays[matrix]} for matrix, found in groups.items() if found]


def _is_matrix(parameter: nn.Parameter) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2


def adamw(groups: list[dict[str, Any]], training: TrainingConfig) -> torch.optim.AdamW:
    """The optimizer; its learning rate is set before every step."""
    return torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=training.optim == "adamw_torch_fused",
    )


def materialise_moments(optimizer: torch.optim.Optimizer, masters: list[torch.Tensor], step: int) -> None:
    """Give every master tensor its AdamW state, with `step` updates done; moments that exist stay as they are."""
    fused = bool(optimizer.defaults.get("fused"))
    for master in masters:
        state = optimizer.state[master]
        device = master.device if fused else torch.device("cpu")
        state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
        for moment in MOMENTS:
            if moment not in state:
                state[moment] = torch.zeros_like(master, memory_format=torch.preserve_format)


def fresh_moments(optimizer: torch.optim.Optimizer, masters: list[torch.Tensor]) -> None:
    """AdamW state as before the first step, whatever an engine did to it while it set itself up."""
    optimizer.state.clear()
    materialise_moments(optimizer, masters, 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
