"""Bytes of storages, from making to freeing, real and fake."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.measure.allocation_counter import Allocations


def test_storages_count_from_making_to_freeing() -> None:
    with Allocations() as counted:
        first = torch.zeros(1000)
        second = first + 1
        assert (counted.now, counted.peak) == (8000, 8000)
        del first
        assert (counted.now, counted.peak) == (4000, 8000)
        counted.forget_peak()
        assert counted.peak == 4000
        del second
    assert counted.now == 0


def test_views_share_their_storage_and_resizing_is_seen() -> None:
    with Allocations() as counted:
        whole = torch.zeros(100)
        views = [whole[:10], whole.view(10, 10), whole.detach()]
        assert counted.now == 400
        whole.untyped_storage().resize_(0)
        assert counted.now == 0
        whole.untyped_storage().resize_(800)
        assert counted.now == 800
        del views


def test_fake_tensors_count_as_if_they_were_there() -> None:
    with FakeTensorMode(), Allocations() as counted:
        huge = torch.empty(1 << 40, dtype=torch.bfloat16)
        assert counted.now == 1 << 41
        assert huge.sum().item() == 1.0, "norms of fake tensors are finite"
        del huge


def test_what_is_made_outside_does_not_count() -> None:
    before = torch.zeros(1000)
    with Allocations() as counted:
        before.add_(1)
        torch.empty(7, device="meta")
    assert counted.peak in (0, before.untyped_storage().nbytes()), "an operation in place makes no other storage"
    torch.zeros(1000)
    assert counted.now in (0, before.untyped_storage().nbytes())
