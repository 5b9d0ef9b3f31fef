"""Importing torch and Transformers quickly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """A block of imports without garbage collection, and what they made is never looked through again.

    Classes and code stay for good, yet every collection on the way would walk over all of them: a fifth of the time
    that torch, Transformers and PEFT take. Frozen, they cost the collections between training steps nothing either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
