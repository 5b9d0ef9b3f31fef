"""What all ranks agree on, with one rank in this process; tests/process has more of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from trainer.errors import UserError
from trainer.runtime.collectives import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks()
    dist.destroy_process_group()


@pytest.mark.parametrize("value", [None, 7, "ü" * 1000, [1, None], {"a": {"b": 1.5}}])
def test_values_travel_as_json(ranks: Ranks, value: Any) -> None:
    assert ranks.gather(value) == [value]
    assert ranks.first_decides("x", lambda: value) == value


def test_sums_are_in_double_precision(ranks: Ranks) -> None:
    assert ranks.sum(torch.tensor([1e8, 1.0], dtype=torch.bfloat16)).dtype == torch.float64


@pytest.mark.parametrize("flags", [(True, False), (False, False), (True,)])
def test_flags(ranks: Ranks, flags: tuple[bool, ...]) -> None:
    assert ranks.any(*flags).wait() == [*flags]


def test_what_the_system_refuses_is_told_and_not_raised(ranks: Ranks) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    assert ranks.agree("publish", lambda: 5) == (5, [])
    assert ranks.agree("publish", full) == (None, ["rank 0: publish: [Errno 28] No space left on device"])
    with pytest.raises(UserError, match="No space"):
        ranks.first_decides("epochs", full)


def test_other_errors_are_raised_as_they_are(ranks: Ranks) -> None:
    def wrong() -> None:
        raise UserError("no", where="here", remedy="do")

    with pytest.raises(ZeroDivisionError):
        ranks.agree("publish", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ranks.first_decides("publish", lambda: 1 / 0)
    with pytest.raises(UserError) as raised:
        ranks.first_decides("publish", wrong)
    assert (raised.value.where, raised.value.remedy) == ("here", "do")
