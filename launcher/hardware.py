"""What this machine has: GPUs, cores, memory. Found without torch, so that a plan is quick everywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import MachineError

QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_SECONDS = 20
MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine as the planner sees it."""

    num_cores: int
    memory_bytes: int
    gpu_names: tuple[str, ...] = ()
    gpu_memory_bytes: int = 0
    has_flash_attention: bool = False
    is_imagined: bool = False
    """Supposed, for a plan that asks what if: there may be several such nodes."""

    @property
    def num_gpus(self) -> int:
        """GPUs on this machine."""
        return len(self.gpu_names)


def this_machine() -> Machine:
    """The machine that this process runs on.

    Raises:
        MachineError: there is an NVIDIA driver, but it does not answer.
    """
    gpus = _gpus()
    return Machine(
        num_cores=_num_cores(),
        memory_bytes=_memory_bytes(),
        gpu_names=tuple(name for name, _ in gpus),
        gpu_memory_bytes=min((memory for _, memory in gpus), default=0),
        has_flash_attention=importlib.util.find_spec("flash_attn") is not None,
    )


def _gpus() -> list[tuple[str, int]]:
    """Name and memory in bytes of each visible GPU; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(
            ["nvidia-smi", *QUERY], capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise MachineError(
            f"nvidia-smi is here but does not answer: {error}",
            "Mend the driver, or set `resources: {gpu: none}` to train on the CPU.",
        ) from error
    return visible(parse_gpus(answer.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(text: str) -> list[tuple[str, int]]:
    """Name and memory in bytes from nvidia-smi's CSV; lines without a size (MIG parents) are left out."""
    rows = [line.rsplit(",", 1) for line in text.splitlines() if "," in line]
    return [(name.strip(), int(mib) * MIB) for name, mib in rows if mib.strip().isdigit()]


def visible(gpus: list[tuple[str, int]], setting: str | None) -> list[tuple[str, int]]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves; entries that are no index (UUIDs) count by number only."""
    if setting is None:
        return gpus
    entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
    if all(entry.isdigit() for entry in entries):
        return [gpus[int(entry)] for entry in entries if int(entry) < len(gpus)]
    return [] if entries[0] == "-1" else gpus[: len(entries)]


def _num_cores() -> int:
    """Cores that this process may use: as many as it may run on, or as its cgroup's time is worth when that is less."""
    cores, cgroup = len(os.sched_getaffinity(0)), Path("/sys/fs/cgroup")
    texts = [path.read_text().strip() for path in (cgroup / "cpu.max",) if path.is_file()]
    old = [cgroup / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if all(path.is_file() for path in old):
        texts.append(" ".join(path.read_text().strip() for path in old))
    return min([cores, *(cores_worth(text) or cores for text in texts)])


def cores_worth(text: str) -> int | None:
    """Whole cores, at least one, from a cgroup's quota and period in microseconds; None without a limit."""
    quota, _, period = text.partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdigit() and period.isdigit() and int(period) else None


def _memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its cgroup's when that is smaller."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    texts = [path.read_text().strip() for path in limits if path.is_file()]
    return min([physical, *(int(text) for text in texts if text.isdigit())])
