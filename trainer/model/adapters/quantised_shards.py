"""Quantised weights split over the ranks: each holds a part of every frozen layer's packed bytes.

A layer's packed numbers and the scales of their blocks lie one behind the other in one storage. Between uses that
storage is empty and every rank keeps its part of it; before a product, forward or backward, all ranks gather it
again, and free it afterwards. What uses the weight sees the same tensors with the same bytes as without sharding, so
losses and gradients are the same to the bit, on every engine: engines do not know of packed weights at all.

Ranks run the same layers in the same order, so each knows from the forward and backward pass before which layer
comes next, and has it on its way while the present one computes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

ALIGNMENT = 16
NOT_SHARED = "experts."
"""Layers with this in their names run where tokens are sent to them, not on every rank at once: they stay whole."""
Event = tuple[int, str]


class Shards:
    """All sharded layers of a model, and the order in which they are used."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.group: Any = (
            dist.new_group()
        )  # of its own: what is fetched ahead must not queue with an engine's collectives
        self.layers: list[Shard] = []
        self._before: dict[bool, list[Event]] = {True: [], False: []}
        self._now: list[Event] = []
        self._follows, self._trains = True, True

    def add(self, tensors: list[torch.Tensor]) -> tuple[Shard, list[torch.Tensor]]:
        """Take over some tensors of one layer; returns the tensors to put in their place."""
        shard = Shard(self, len(self.layers), tensors)
        self.layers.append(shard)
        return shard, shard.views

    def begin(self) -> None:
        """A forward pass begins; the one before tells what to expect."""
        for shard in self.layers:
            shard.drop()
        if self._now:
            self._before[self._trains] = self._now
        self._now, self._follows, self._trains = [], True, torch.is_grad_enabled()

    def used(self, event: Event) -> None:
        """Note a use, and fetch what comes next. All ranks expect the same: they have seen the same uses."""
        before, at = self._before[self._trains], len(self._now)
        self._follows = self._follows and at < len(before) and before[at] == event
        self._now.append(event)
        if self._follows and at + 1 < len(before):
            self.layers[before[at + 1][0]].fetch()


class Shard:
    """One layer's packed bytes: this rank's part always, the whole while it is used.

    Attributes:
        part: this rank's bytes.
        views: the layer's tensors, which have memory only while the whole is there.
    """

    def __init__(self, shards: Shards, number: int, tensors: list[torch.Tensor]) -> None:
        self._shards, self._number = shards, number
        starts, end = [], 0
        for tensor in tensors:
            starts.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        size = -(-end // shards.size)
        whole = torch.zeros(size * shards.size, dtype=torch.uint8, device=tensors[0].device)
        for start, tensor in zip(starts, tensors, strict=True):
            whole[start : start + tensor.nbytes].copy_(_bytes(tensor))
        self.part = whole[size * shards.rank : size * (shards.rank + 1)].clone()
        self._whole = whole
        self.views = [
            whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(starts, tensors, strict=True)
        ]
        self._users = 0
        self._work: Any = None
        self._free()

    def fetch(self) -> None:
        """Start to gather, unless it is there or on its way."""
        if self._users or self._work is not None:
            return
        storage = self._whole.untyped_storage()
        storage.resize_(self._whole.nbytes)
        self._work = dist.all_gather_into_tensor(self._whole, self.part, group=self._shards.group, async_op=True)

    def take(self, phase: str) -> None:
        """Have the whole; every `take` needs a `give`."""
        self.fetch()
        if self._work is not None:
            self._work.wait()
            self._work = None
        self._users += 1
        self._shards.used((self._number, phase))

    def give(self) -> None:
        """The whole is not needed any more."""
        self._users -= 1
        if not self._users:
            self._free()

    def drop(self) -> None:
        """Free what was fetched and not used."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._free()

    @contextlib.contextmanager
    def whole(self, phase: str) -> Iterator[None]:
        """Have the whole inside the block."""
        self.take(phase)
        try:
            yield
        finally:
            self.give()

    def _free(self) -> None:
        self._whole.untyped_storage().resize_(0)

    def around(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """`layer(x)`, with its weight there in the forward pass, and again for the gradient of `x`."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            with self.whole("forward"):
                plain: torch.Tensor = layer(x)
            return plain
        entered = _GiveAfter.apply(x, self)
        with self.whole("forward"):  # a recomputation may end in here: it stops once it has what it wants
            out = layer(entered)
        watched: torch.Tensor = _TakeBefore.apply(out, self)
        return watched


class _TakeBefore(torch.autograd.Function):
    """Nothing forward; backward has the weight gathered for the node before it."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, shard: Shard) -> torch.Tensor:
        ctx.shard = shard
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.shard.take("backward")
        return gradients[0], None


class _GiveAfter(torch.autograd.Function):
    """Nothing forward; backward frees the weight, whose product comes right before."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shard: Shard) -> torch.Tensor:
        ctx.shard = shard
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.shard.give()
        return gradients[0], None


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def shard_weight(layer: nn.Module, weight: Any, shards: Shards) -> None:
    """Split the packed numbers of a weight that has just been quantised, and their scales where there are many."""
    state = getattr(weight, "quant_state", None)
    if state is None:  # 8-bit: a scale a row is little
        shard, (packed,) = shards.add([weight.CB])
        weight.CB = packed
    else:
        shard, (packed, state.absmax) = shards.add([weight.data, state.absmax])
    weight.data = packed
    layer.__dict__["shard"] = shard


@contextlib.contextmanager
def sharded_while_loading(shards: Shards | None) -> Iterator[None]:
    """Inside the block Transformers' loading shards each layer as soon as it is quantised: never are all whole.

    Every rank quantises every layer, one at a time, because double quantisation needs the mean of all scales.
    """
    if shards is None:
        yield
        return
    from transformers.integrations import bitsandbytes as loading

    originals = {name: getattr(loading, name).convert for name in ("Bnb4bitQuantize", "Bnb8bitQuantize")}
    for name, original in originals.items():
        getattr(loading, name).convert = _sharding(original, shards)
    try:
        yield
    finally:
        for name, original in originals.items():
            getattr(loading, name).convert = original


def _sharding(original: Any, shards: Shards) -> Any:
    def convert(self: Any, input_dict: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, input_dict, *args, **kwargs)
        model = kwargs.get("model") or next(argument for argument in args if isinstance(argument, nn.Module))
        for name, weight in found.items():
            if NOT_SHARED not in name:
                shard_weight(reduce(getattr, name.split(".")[:-1], model), weight, shards)
        return found

    return convert


def shard_of(layer: Any) -> Shard | None:
    """The shard of a layer; `None` where its weight is whole on every rank."""
    shard: Shard | None = layer.__dict__.get("shard")
    return shard


def shards_of(model: nn.Module) -> Shards | None:
    """What a model's layers are sharded by; `None` where they are not."""
    found = [shard for module in model.modules() if (shard := shard_of(module))]
    return found[0]._shards if found else None


@contextlib.contextmanager
def everything_whole(model: nn.Module) -> Iterator[None]:
    """Every layer's weight is there inside the block; a collective."""
    shards = shards_of(model)
    with contextlib.ExitStack() as stack:
        for shard in shards.layers if shards else []:
            stack.enter_context(shard.whole("all"))
        yield
