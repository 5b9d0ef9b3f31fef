"""What nvidia-smi says about this machine's GPUs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ASK = ("index", "uuid", "name", "memory.used", "memory.total", "ecc.errors.uncorrected.volatile.total")
_ANSWER_SECONDS = 20.0
_FREEING_SECONDS = 10.0
_IDLE_MEMORY_MIB = 1024
_MPS = "nvidia-cuda-mps"  # a service, not somebody's work
_CPU_ONLY_VALUES = ("", "-1", "NoDevFiles", "void")


class UnreadableError(Exception):
    """nvidia-smi is missing, failed, or said something that we do not understand."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. `ecc_errors` counts uncorrectable ones since the driver was loaded; None where it has no ECC."""

    index: int
    uuid: str
    name: str
    used_mib: int
    total_mib: int
    ecc_errors: int | None


def fitness(num_needed: int, environment: Mapping[str, str]) -> tuple[str, str]:
    """What there is, and what is wrong with it ("" when nothing is), both for people."""
    ours = visible(read_gpus(), environment.get("CUDA_VISIBLE_DEVICES"))
    trouble = trouble_with(ours, busy_gpus(), num_needed)
    deadline = time.monotonic() + _FREEING_SECONDS
    while trouble and time.monotonic() < deadline:  # the driver takes a while to free what a killed process held
        time.sleep(1)
        ours = visible(read_gpus(), environment.get("CUDA_VISIBLE_DEVICES"))
        trouble = trouble_with(ours, busy_gpus(), num_needed)
    names = ", ".join(dict.fromkeys(gpu.name for gpu in ours))
    return f"{len(ours)} x {names}, idle", trouble


def trouble_with(gpus: Sequence[Gpu], busy: Mapping[str, list[str]], num_needed: int) -> str:
    """What speaks against starting ranks on these GPUs; `busy` names processes by the GPU's uuid."""
    found = []
    if len(gpus) < num_needed:
        found.append(f"{len(gpus)} GPUs, {num_needed} needed")
    for gpu in gpus:
        if gpu.ecc_errors:
            found.append(f"GPU {gpu.index} has {gpu.ecc_errors} uncorrectable ECC errors")
        if gpu.uuid in busy:
            found.append(f"GPU {gpu.index} is used by {', '.join(busy[gpu.uuid])}")
        elif gpu.used_mib > _IDLE_MEMORY_MIB:
            found.append(f"GPU {gpu.index} has {gpu.used_mib} of {gpu.total_mib} MiB in use by somebody unseen")
    return "; ".join(found)


def visible(gpus: Sequence[Gpu], given: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves to us: by number, or by the beginning of the uuid."""
    if given is None:
        return list(gpus)
    if given.strip() in _CPU_ONLY_VALUES:
        return []
    wanted = [word.strip() for word in given.split(",")]
    return [gpu for gpu in gpus if any(_is(gpu, word) for word in wanted)]


def read_gpus() -> list[Gpu]:
    """Every GPU of the machine."""
    rows = _rows("--query-gpu=" + ",".join(_ASK))
    try:
        return [Gpu(int(row[0]), row[1], row[2], _count(row[3]), _count(row[4]), _ecc(row[5])) for row in rows]
    except (ValueError, IndexError) as error:
        raise UnreadableError(f"nvidia-smi: cannot be understood: {error}") from None


def busy_gpus() -> dict[str, list[str]]:
    """Processes at work, by the uuid of their GPU."""
    found: dict[str, list[str]] = {}
    for row in _rows("--query-compute-apps=gpu_uuid,pid,process_name"):
        if len(row) == 3 and _MPS not in row[2]:
            found.setdefault(row[0], []).append(f"process {row[1]} ({row[2]})")
    return found


def _rows(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, errors="replace")
    except FileNotFoundError:
        raise UnreadableError("nvidia-smi: not found; is the driver installed, and the GPU given to us?") from None
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"nvidia-smi: no answer within {_ANSWER_SECONDS:.0f} s") from None
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise UnreadableError(f"nvidia-smi: {words[-1] if words else f'exit code {done.returncode}'}")
    return [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _is(gpu: Gpu, word: str) -> bool:
    return word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))


def _count(text: str) -> int:
    """A number; memory of GPUs that share the host's is `[N/A]`."""
    return 0 if text.startswith("[") else int(text)


def _ecc(text: str) -> int | None:
    return int(text) if text.isdigit() else None
