"""observed.json: what steps and memory really take. phase.json: how far a long phase is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rundir.document import Document, as_integer, as_number, as_numbers, as_text, field, nested
from rundir.files import read_json, read_json_or_empty
from rundir.paths import RunPaths

_NOTHING: Mapping[str, float] = {}
_STALE_SECONDS = 120.0


class Load(Document):
    """How busy the first rank's node was, by the run and by others; None where it cannot be told."""

    cores: float | None = field(as_number, default=None)
    our_cores: float | None = field(as_number, default=None)
    other_cores: float | None = field(as_number, default=None)
    other_gpu_bytes: float | None = field(as_number, default=None)


class Observed(Document):
    """observed.json, of one attempt without its first step, saves and evaluations."""

    attempt: int | None = field(as_integer, default=None)
    step: int | None = field(as_integer, default=None)
    steps: int | None = field(as_integer, default=None)
    """How many were counted."""
    step_seconds: float | None = field(as_number, default=None)
    tokens_per_second: float | None = field(as_number, default=None)
    fill: float | None = field(as_number, default=None)
    world_size: int | None = field(as_integer, default=None)
    device: str = field(as_text, default="")
    device_name: str = field(as_text, default="")
    memory_bytes: Mapping[str, float] = field(as_numbers, default=_NOTHING)
    """`allocated`, `reserved` and `process`: peaks of the rank that has most."""
    components_bytes: Mapping[str, float] = field(as_numbers, default=_NOTHING)
    torch: str = field(as_text, default="")
    load: Load = field(nested(Load), default=Load())


class PhaseProgress(Document):
    """phase.json: how far a long phase is, for whoever looks."""

    phase: str = field(as_text, default="")
    done: float | None = field(as_number, default=None)
    total: float | None = field(as_number, default=None)
    unit: str = field(as_text, default="")
    facts: str = field(as_text, default="")
    begun: float | None = field(as_number, default=None)
    time: float | None = field(as_number, default=None)


def read_observed(run_dir: Path) -> Observed:
    """What was observed; empty before the first save. RunDirError when the file is damaged."""
    return Observed.from_json(read_json(RunPaths(run_dir).observed))


def read_phase(run_dir: Path) -> PhaseProgress:
    """The phase that is being counted; empty when none is, or whoever counted it is gone."""
    found = PhaseProgress.from_json(read_json_or_empty(RunPaths(run_dir).phase))
    is_fresh = found.time is not None and abs(time.time() - found.time) < _STALE_SECONDS
    return found if is_fresh and found.phase else PhaseProgress()
