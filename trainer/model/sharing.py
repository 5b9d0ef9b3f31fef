"""One rank reads the weights; the others begin with the model's skeleton and are given theirs when an engine shards it.

Eight ranks that each read a 70B model would need 1.1 TB of host memory on their node, and a rank that moved the whole
model to its GPU before sharding would not fit: no rank but the first ever holds more than one unit of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.config import TrainerConfig
from trainer.errors import UserError
from trainer.model.build import build_model
from trainer.model.supervised import SupervisedModel
from trainer.runtime.collectives import Ranks

META = torch.device("meta")
_ROUND_SECONDS = 30.0
"""How often ranks that wait for the first one hear that it is still reading: their collectives never time out."""


def build_shared_model(
    config: TrainerConfig, ranks: Ranks, pulse: Callable[[], None] = lambda: None
) -> SupervisedModel:
    """The model of a job on every rank, with weights on the first one only; on all where that cannot be.

    Quantised layers are quantised on every rank's own device while they are read, one after the other, so they
    need no sharing. An engine that finds `model.shared` set hands the weights out.

    Args:
        pulse: called now and then while the weights are read.

    Raises:
        UserError: as of `build_model`, on every rank.
    """
    if ranks.size == 1 or config.method.quantization:
        return build_model(config)
    model = None if ranks.is_first else _skeleton(config)
    missing = ranks.any(model is None and not ranks.is_first).wait()[0]
    if missing:
        return build_model(config)
    built = _Background(lambda: build_model(config)) if ranks.is_first else None
    while not ranks.first_decides("model", lambda: built is not None and built.wait(_ROUND_SECONDS)):
        pulse()
    model = built.result if built else model
    assert model is not None
    _agree_on_layout(model, ranks.first_decides("model", lambda: layout(model)))
    model.shared = True
    return model


class _Background:
    """Work in a thread, so that its caller can keep in touch with the other ranks."""

    def __init__(self, work: Callable[[], SupervisedModel]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._model: SupervisedModel | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._model = self._work()
        except BaseException as error:  # raised again by `wait`, where the other ranks hear of it
            self._error = error

    def wait(self, seconds: float) -> bool:
        """Whether it is done after so long; raises what the work raised."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    @property
    def result(self) -> SupervisedModel:
        assert self._model is not None
        return self._model


def _skeleton(config: TrainerConfig) -> SupervisedModel | None:
    """The model without weights; None where it cannot be built so. Reading the weights then tells what is wrong."""
    try:
        with META:
            model = build_model(config, weights=False)
    except Exception:  # any architecture's own code runs in there
        return None
    whole = all(parameter.is_meta for parameter in model.parameters())
    loose = any(isinstance(value, torch.Tensor) for module in model.modules() for value in vars(module).values())
    return model if whole and not loose else None


def layout(model: nn.Module) -> dict[str, list[Any]]:
    """Shape, type and whether it trains of every parameter and buffer, by name; tied ones under their first name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: [list(t.shape), str(t.dtype).removeprefix("torch."), t.requires_grad] for name, t in tensors}


def _agree_on_layout(model: nn.Module, wanted: dict[str, list[Any]]) -> None:
    """Give a skeleton the types of the model that was read: some of them come from its files."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta and name in wanted:
            tensor.data = tensor.data.to(getattr(torch, wanted[name][1]))
    mine = layout(model)
    if odd := sorted(name for name in wanted.keys() | mine.keys() if wanted.get(name) != mine.get(name)):
        raise UserError(
            f"the model's weights do not have the layout that its configuration says: {', '.join(odd[:3])}",
            remedy="check that config.json belongs to these weights",
        )


def materialise(module: nn.Module, device: torch.device) -> None:
    """Memory on `device` for every tensor of `module` that has none, with any content; others are moved there."""
    replace_tensors(module, lambda t: torch.empty_like(t, device=device) if t.is_meta else t.detach().to(device))


def take_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Leave a skeleton of the model, and return what it held: on the first rank everything, elsewhere nothing."""
    held = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.is_meta}
    parameters = {id(parameter) for parameter in model.parameters()}
    replace_tensors(model, lambda t: t.detach().to(META) if id(t) in parameters else t.detach())
    return held


def replace_tensors(module: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put `make(tensor)` in the place of every parameter and buffer; tied ones stay tied, what trains goes on to."""
    for slots in _by_tensor(module).values():
        old = slots[0][2]
        new: Any = make(old)
        if new is old:
            continue
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for owner, name, _, _ in slots:
            table = owner._parameters if isinstance(old, nn.Parameter) else owner._buffers
            table[name] = new


def receive(tensor: torch.Tensor | None, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A whole tensor of the first rank's, on `device` of every rank; a collective."""
    whole = torch.empty(shape, dtype=dtype, device=device) if tensor is None else tensor.to(device).contiguous()
    dist.broadcast(whole.reshape(-1).view(torch.uint8), 0)  # bytes: not every backend knows every type
    return whole


def share_buffers(model: nn.Module, device: torch.device) -> None:
    """Give every rank the first one's buffers: they are computed when a model is built, which skeletons cannot."""
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        mine = None if dist.get_rank() else buffer
        model.get_submodule(owner)._buffers[last] = receive(mine, buffer.shape, buffer.dtype, device)


def _by_tensor(module: nn.Module) -> dict[int, list[tuple[nn.Module, str, torch.Tensor, str]]]:
    """Where each tensor hangs: (owner, attribute, tensor, full name), several for tied ones."""
    found: dict[int, list[tuple[nn.Module, str, torch.Tensor, str]]] = {}
    for prefix, owner in module.named_modules():
        for name, tensor in _tensors(owner):
            found.setdefault(id(tensor), []).append((owner, name, tensor, f"{prefix}.{name}" if prefix else name))
    return found


def _tensors(owner: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for table in (owner._parameters, owner._buffers):
        yield from ((name, tensor) for name, tensor in table.items() if tensor is not None)
