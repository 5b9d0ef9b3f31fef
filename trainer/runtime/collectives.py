"""The few collectives that carry facts, not tensors: agreed on by all ranks, as JSON, never pickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.errors import UserError

T = TypeVar("T")


class PeerError(RuntimeError):
    """Another rank failed in something that all do together; its log says more."""


class Ranks:
    """The control group: a Gloo group over all ranks, so that agreeing never waits for a GPU."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        on_gloo = dist.get_backend() == "gloo"
        self._group: Any = dist.group.WORLD if on_gloo else dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in the order of ranks, on every rank."""
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(mine)]), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self._group)
        return [json.loads(bytes(part[: int(size)].numpy())) for part, size in zip(parts, sizes, strict=True)]

    def agree(self, what: str, action: Callable[[], T]) -> tuple[T | None, list[str]]:
        """Run `action` on every rank and learn on every rank what the operating system refused anywhere.

        Returns:
            This rank's result (None if it failed), and one line per rank that failed with an operating system error.

        Raises:
            Exception: `action` failed otherwise: its own error here, a PeerError on the other ranks.
        """
        result: T | None = None
        refused, broken = "", None
        try:
            result = action()
        except OSError as error:
            refused = f"rank {self.rank}: {what}: {error}"
        except Exception as error:
            broken = error
        everyone = self.gather([refused, f"rank {self.rank}: {what}: {broken!r}" if broken else ""])
        if broken:
            raise broken
        if told := next((words for _, words in everyone if words), None):
            raise PeerError(told)
        return result, [line for line, _ in everyone if line]

    def any(self, *flags: bool) -> PendingFlags:
        """Start finding out which of `flags` are set on any rank."""
        tensor = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return PendingFlags(tensor, work)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks of a float64 vector on the CPU."""
        total = values.to("cpu", torch.float64)
        dist.all_reduce(total, group=self._group)
        return total

    def barrier(self) -> None:
        dist.barrier(group=self._group)

    def first_decides(self, what: str, action: Callable[[], T]) -> T:
        """Run `action` on the first rank and return its JSON result on all; its error is raised on all.

        Raises:
            UserError: `action` failed with one on the first rank, or with an operating system error.
            Exception: `action` failed otherwise: its own error on the first rank, a PeerError on the others.
        """
        value: dict[str, Any] = {}
        broken: Exception | None = None
        if self.is_first:
            try:
                value = {"result": action()}
            except UserError as error:
                value = {"error": [error.message, error.where, error.remedy]}
            except OSError as error:
                value = {"error": [f"{what}: {error}", "", ""]}
            except Exception as error:
                value, broken = {"broken": f"rank 0: {what}: {error!r}"}, error
        answer = self.gather(value)[0]
        if "broken" in answer:
            raise broken or PeerError(answer["broken"])
        if "error" in answer:
            message, where, remedy = answer["error"]
            raise UserError(message, where=where, remedy=remedy)
        result: T = answer["result"]
        return result


class PendingFlags:
    """Flags on their way; `wait` gives the answer, the same on all ranks."""

    def __init__(self, tensor: torch.Tensor, work: Any) -> None:
        self._tensor, self._work = tensor, work

    def wait(self) -> list[bool]:
        self._work.wait()
        return [bool(flag) for flag in self._tensor.tolist()]
