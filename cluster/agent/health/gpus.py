"""What nvidia-smi says about this machine's GPUs, and which of them CUDA_VISIBLE_DEVICES leaves to us."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rundir.quantities import count

_ASK = (
    "index",
    "uuid",
    "name",
    "memory.used",
    "memory.total",
    "ecc.errors.uncorrected.volatile.total",
    "mig.mode.current",
)
VISIBLE = "CUDA_VISIBLE_DEVICES"
_CSV = "--format=csv,noheader,nounits"
_ANSWER_SECONDS = 20.0
_FREEING_SECONDS = 10.0
_IDLE_MEMORY_MIB = 1024
_MPS = "nvidia-cuda-mps"  # a service, not somebody's work
_NUMBER = re.compile(r"\+?\d+", re.ASCII)
"""CUDA reads what a number begins with, as C does."""
_CARD = re.compile(r"GPU (\d+): ")
_SLICE = re.compile(r"\s+MIG (?P<profile>\d+g\.(?P<gb>\d+)gb\S*)\s.*\(UUID: (?P<uuid>MIG-[^)]+)\)")
_MIB_OF_A_SLICE_GB = 0.95 * 1024
"""A `1g.5gb` slice has 4864 MiB, a `1g.10gb` one 9728."""


class UnreadableError(Exception):
    """nvidia-smi is missing, failed, or said something that we do not understand."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one.

    Attributes:
        index: Of the card.
        ecc_errors: Uncorrectable ones since the driver was loaded; None where the card has no ECC.
        profile: `3g.20gb` of a slice; empty of a whole card.
    """

    index: int
    uuid: str
    name: str
    used_mib: int
    total_mib: int
    ecc_errors: int | None
    profile: str = ""


def fitness(num_needed: int, environment: Mapping[str, str]) -> tuple[str, str]:
    """What there is, and what is wrong with it ("" when nothing is), both for people."""
    ours = visible(read_gpus(), environment.get(VISIBLE))
    trouble = trouble_with(ours, busy_gpus(), num_needed)
    deadline = time.monotonic() + _FREEING_SECONDS
    while trouble and time.monotonic() < deadline:  # the driver takes a while to free what a killed process held
        time.sleep(1)
        ours = visible(read_gpus(), environment.get(VISIBLE))
        trouble = trouble_with(ours, busy_gpus(), num_needed)
    names = ", ".join(dict.fromkeys(gpu.name for gpu in ours))
    return f"{len(ours)} x {names}, idle", trouble


def trouble_with(gpus: Sequence[Gpu], busy: Mapping[str, list[str]], num_needed: int) -> str:
    """What speaks against starting ranks on these GPUs; `busy` names processes by the GPU's uuid."""
    found = []
    if len(gpus) < num_needed:
        found.append(f"{count(len(gpus), 'GPU')}, {num_needed} needed")
    for gpu in gpus:
        if gpu.ecc_errors:
            found.append(f"GPU {gpu.index} has {gpu.ecc_errors} uncorrectable ECC errors")
        if gpu.uuid in busy:
            found.append(f"GPU {gpu.index} is used by {', '.join(busy[gpu.uuid])}")
        elif gpu.used_mib > _IDLE_MEMORY_MIB:
            found.append(f"GPU {gpu.index} has {gpu.used_mib} of {gpu.total_mib} MiB in use by somebody unseen")
    return "; ".join(found)


def visible(gpus: Sequence[Gpu], given: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves to us, in its order, read as CUDA reads it.

    An entry is a number, or the beginning of a uuid that only one device has. What stands behind an entry that names
    none (`-1`, `NoDevFiles`, a number too large), or is of another kind than the first, does not count; a device that
    is named twice takes away all.
    """
    if given is None:
        return [gpu for gpu in gpus if not gpu.profile] or list(gpus[:1])  # of slices, CUDA shows one
    found: list[Gpu] = []
    words = [word.strip() for word in given.split(",")]
    for word in words:
        gpu = _named(gpus, word)
        if gpu is None or _kind(word) != _kind(words[0]):
            break
        if gpu in found:
            return []
        found.append(gpu)
    return found


def our_gpus() -> list[Gpu]:
    """Those of this machine that this process may use.

    Raises:
        UnreadableError: nvidia-smi does not say.
    """
    return visible(read_gpus(), os.environ.get(VISIBLE))


def read_gpus() -> list[Gpu]:
    """Every GPU of the machine; of one that is cut into MIG slices, the slices."""
    rows = _rows("--query-gpu=" + ",".join(_ASK), _CSV)
    try:
        cards = {
            int(row[0]): Gpu(int(row[0]), row[1], row[2], _count(row[3]), _count(row[4]), _ecc(row[5])) for row in rows
        }
    except (ValueError, IndexError) as error:
        raise UnreadableError(f"nvidia-smi: cannot be understood: {error}") from None
    cut = {int(row[0]) for row in rows if row[6:] == ["Enabled"]}
    whole = [card for index, card in cards.items() if index not in cut]
    return [*whole, *_slices(cards, cut)] if cut else whole


def lowest_compute_capability(cards: set[int]) -> float | None:
    """The lowest compute capability of some cards, by their indices; None from drivers that are too old to tell."""
    try:
        rows = _rows("--query-gpu=index,compute_cap", "--format=csv,noheader")
    except UnreadableError:
        return None
    told = [row[1] for row in rows if len(row) == 2 and row[0] in map(str, cards)]
    return min((float(text) for text in told if text.replace(".", "", 1).isdigit()), default=None)


def _slices(cards: Mapping[int, Gpu], cut: set[int]) -> Iterator[Gpu]:
    card = -1
    for line in _lines("-L"):
        if found := _CARD.match(line):
            card = int(found[1])
        elif card in cut and (part := _SLICE.match(line)):
            name, size = f"MIG {part['profile']} of {cards[card].name}", int(int(part["gb"]) * _MIB_OF_A_SLICE_GB)
            yield Gpu(card, part["uuid"], name, 0, size, cards[card].ecc_errors, part["profile"])


def busy_gpus() -> dict[str, list[str]]:
    """Processes at work, by the uuid of their GPU."""
    found: dict[str, list[str]] = {}
    for row in _rows("--query-compute-apps=gpu_uuid,pid,process_name", _CSV):
        if len(row) == 3 and _MPS not in row[2]:
            found.setdefault(row[0], []).append(f"process {row[1]} ({row[2]})")
    return found


def _rows(*options: str) -> list[list[str]]:
    return [[word.strip() for word in line.split(",")] for line in _lines(*options)]


def _lines(*options: str) -> list[str]:
    command = ["nvidia-smi", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, errors="replace")
    except FileNotFoundError:
        raise UnreadableError("nvidia-smi: not found; is the driver installed, and the GPU given to us?") from None
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"nvidia-smi: no answer within {_ANSWER_SECONDS:.0f} s") from None
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise UnreadableError(f"nvidia-smi: {words[-1] if words else f'exit code {done.returncode}'}")
    return [line for line in done.stdout.splitlines() if line.strip()]


def _named(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    """The device that an entry names; of a card that is cut into slices, CUDA shows the first."""
    if number := _NUMBER.match(word):
        return next((gpu for gpu in gpus if gpu.index == int(number[0])), None)
    same = [gpu for gpu in gpus if _kind(word) and gpu.uuid.startswith(word)]
    return same[0] if len(same) == 1 else None


def _kind(word: str) -> str:
    """`GPU-` or `MIG-` of a uuid; empty of a number, and of what is nothing."""
    return next((kind for kind in ("GPU-", "MIG-") if word.startswith(kind)), "")


def _count(text: str) -> int:
    """A number; memory of GPUs that share the host's is `[N/A]`."""
    return 0 if text.startswith("[") else int(text)


def _ecc(text: str) -> int | None:
    return int(text) if text.isdigit() else None
