"""Measurements of a cluster: one line each in `measured.jsonl`, beside its runs so that everybody there shares it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import MachineError
from launcher.home import expanded, user_folder
from rundir.quantities import count, gib

FILE = "measured.jsonl"
PATH_VARIABLE = "TUNEYARD_MEASURED"
LOCAL = "local"
OUT_OF_MEMORY = "out_of_memory"
"""A measurement's note: the run ended there, and would have taken more than what is said to be observed."""


ENOUGH_STEPS, ENOUGH_SECONDS = 10, 5.0
"""Timed steps that a run must have before its speed says anything, and how long they must have taken in all."""
CROWDED_SHARE, FULL_SHARE = 0.1, 0.9
"""Of the cores: what others must have taken, while all were taken, for a run to have been slowed by them."""
OTHERS_GPU_BYTES = 4 * 2**30
"""More than CUDA's context and communicators take beside torch."""
REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a correction applies to.

    Attributes:
        cluster: The site profile's name; this machine's for the local one.
        gpu: The GPU's name in the catalogue, or as its driver has it; `cpu`.
        engine: `zero0` to `zero3`, or `fsdp2`.
        family: `full`, `lora`, `qlora` or `int8`.
    """

    cluster: str
    gpu: str
    engine: str
    family: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run, or one `tuneyard measure`: what was predicted for it and what it took.

    Attributes:
        source: Name of the run, or of the measurement; a later line of the same source replaces an earlier one.
        steps: Steps that were observed.
        step_seconds: `(predicted, observed)` of one step, or `None`.
        memory: The same in bytes: allocated on a GPU, resident on the CPU.
        note: More facts, for people.
    """

    source: str
    key: Key
    time: float
    steps: int
    step_seconds: tuple[float, float] | None
    memory: tuple[int, int] | None
    note: dict[str, Any] = field(default_factory=dict)

    @property
    def ran_out(self) -> bool:
        """Whether the run ran out of memory, so that the observation is a lower bound."""
        return self.memory is not None and bool(self.note.get(OUT_OF_MEMORY))

    @property
    def speed_doubt(self) -> str:
        """Why its speed is not used for corrections; empty if it is. `tuneyard measure` is always used."""
        if self.step_seconds is None:
            return "no speed"
        seconds = self.steps * self.step_seconds[1]
        if "rank" not in self.note and self.steps < ENOUGH_STEPS:
            return f"only {count(self.steps, 'step')}"
        if "rank" not in self.note and seconds < ENOUGH_SECONDS:
            return f"only {seconds:.1f} s"
        return _crowded(self.note.get("load") or {})

    def as_json(self) -> dict[str, Any]:
        """The measurement as a line of the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Measurement:
        """The measurement of a line; KeyError, TypeError or ValueError where it is none."""
        pairs = {name: None if found[name] is None else _pair(found[name]) for name in ("step_seconds", "memory")}
        return cls(**{**found, **pairs, "key": Key(**found["key"])})


def _crowded(load: dict[str, Any]) -> str:
    """What else used the machine while the run was timed; empty if nothing did."""
    cores, ours, others = (load.get(name) or 0.0 for name in ("cores", "our_cores", "other_cores"))
    if others > CROWDED_SHARE * cores and ours + others > FULL_SHARE * cores:
        return f"other processes took {others:.1f} of {count(cores, 'core')}"
    gpu_bytes = load.get("other_gpu_bytes") or 0
    return f"other processes held {gib(gpu_bytes, 0)} of the GPU" if gpu_bytes > OTHERS_GPU_BYTES else ""


def _pair(value: Any) -> tuple[Any, Any]:
    predicted, observed = value
    if not (predicted > 0 and observed > 0):
        raise ValueError(f"not a prediction and an observation: {value}")
    return predicted, observed


def store_path(run_root: str | None) -> Path:
    """The store's path: beside a cluster's runs, else in this user's state folder.

    Args:
        run_root: The site profile's `run_root`; `None` for this machine.
    """
    if named := os.environ.get(PATH_VARIABLE):
        return expanded(named)
    if run_root:
        return expanded(os.path.expandvars(run_root)) / FILE
    return user_folder("XDG_STATE_HOME", ".local/state") / FILE


def cluster_key(profile: str) -> str:
    """The cluster's name in keys; for the local machine with its host name, since homes may be shared."""
    return f"{LOCAL}@{socket.gethostname()}" if profile == LOCAL else Path(profile).stem


def read(path: Path) -> list[Measurement]:
    """All measurements, the last of each source, without damaged lines and removed sources."""
    lines, gone = list(_lines(path)), removed(path)
    found: dict[str, Measurement] = {}
    for line in lines:
        try:
            one = Measurement.from_json(line)
        except (KeyError, TypeError, ValueError):
            continue
        found[one.source] = one
    return [one for source, one in found.items() if source not in gone]


def removed(path: Path) -> set[str]:
    """Sources that were removed, so that their runs are not recorded again."""
    last = {line.get("source"): line[REMOVED] for line in _lines(path) if REMOVED in line}
    return {str(source) for source, gone in last.items() if gone}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def append(path: Path, measurements: Iterable[Measurement]) -> None:
    """Adds measurements.

    Raises:
        MachineError: the file cannot be written.
    """
    _append_lines(path, [one.as_json() for one in measurements])


def set_removed(path: Path, sources: Iterable[str], gone: bool) -> None:
    """Excludes measurements from corrections, or includes them again; their lines stay.

    Raises:
        MachineError: the file cannot be written.
    """
    _append_lines(path, [{"source": source, REMOVED: gone} for source in sources])


def _append_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Appends lines in one write, so that concurrent writers do not interleave."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o664)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written: {error.strerror}", f"Name another file in {PATH_VARIABLE}."
        ) from error
