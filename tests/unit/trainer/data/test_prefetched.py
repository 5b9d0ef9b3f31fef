"""Batches that a thread makes ahead."""

from __future__ import annotations

import threading
import time

import pytest

from trainer.data.pack.batch import prefetched


def test_everything_comes_in_order() -> None:
    assert list(prefetched(lambda n: n * n, 2, 40)) == [n * n for n in range(2, 40)]


def test_an_error_in_the_thread_is_raised_where_its_batch_was_wanted() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("row 3 is broken")
        return number

    work = prefetched(make, 0, 10)
    assert [next(work) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(work)


def test_no_more_is_made_than_may_wait_and_closing_ends_the_thread() -> None:
    made: list[int] = []
    work = prefetched(lambda n: made.append(n) or n, 0, 1000, depth=2)  # type: ignore[func-returns-value]
    next(work)
    time.sleep(0.2)
    assert len(made) <= 5
    work.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "prefetch" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
