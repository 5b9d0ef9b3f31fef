"""Measurements of a cluster: one line each in `measured.jsonl`, beside its runs so that everybody there shares it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import MachineError

FILE = "measured.jsonl"
PATH_VARIABLE = "TUNEYARD_MEASURED"
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a correction holds for.

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

    def as_json(self) -> dict[str, Any]:
        """The measurement as a line of the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Measurement:
        """The measurement of a line; KeyError, TypeError or ValueError where it is none."""
        pairs = {name: None if found[name] is None else _pair(found[name]) for name in ("step_seconds", "memory")}
        return cls(**{**found, **pairs, "key": Key(**found["key"])})


def _pair(value: Any) -> tuple[Any, Any]:
    predicted, observed = value
    if not (predicted > 0 and observed > 0):
        raise ValueError(f"not a prediction and an observation: {value}")
    return predicted, observed


def store_path(run_root: str | None) -> Path:
    """Where measurements lie: beside a cluster's runs, else with this user's state.

    Args:
        run_root: The site profile's `run_root`; `None` for this machine.
    """
    if named := os.environ.get(PATH_VARIABLE):
        return Path(named).expanduser()
    if run_root:
        return Path(os.path.expandvars(run_root)).expanduser() / FILE
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "tuneyard" / FILE


def cluster_key(profile: str) -> str:
    """The cluster's name in keys: homes are shared by machines that are not alike, so the local one has its own."""
    return f"{LOCAL}@{socket.gethostname()}" if profile == LOCAL else Path(profile).stem


def read(path: Path) -> list[Measurement]:
    """All measurements, the last of each source; lines that are damaged are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, Measurement] = {}
    for line in lines:
        try:
            one = Measurement.from_json(json.loads(line))
        except (KeyError, TypeError, ValueError):
            continue
        found[one.source] = one
    return list(found.values())


def append(path: Path, measurements: Iterable[Measurement]) -> None:
    """Adds lines at once: what others write at the same moment lands before or after them.

    Raises:
        MachineError: the file cannot be written.
    """
    text = "".join(json.dumps(one.as_json()) + "\n" for one in measurements)
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
