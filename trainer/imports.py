"""Importing torch and Transformers quickly."""

from __future__ import annotations

import gc
import os
import sys
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


def hide(*packages: str) -> None:
    """Let packages that this process has no use for look absent, to `import` and to `importlib.util.find_spec`.

    Transformers imports PEFT wherever it is installed, PEFT bitsandbytes, and that TorchInductor: a fifth of a rank's
    start. Tokenizers alone need no torch: half of the start of `prepare`.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install what is hidden
    for package in packages:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # Python's own way to forbid an import
