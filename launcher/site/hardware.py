"""What this machine has: GPUs, cores, memory. Found without torch, so that a plan is quick everywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.agent.health.gpus import Gpu, UnreadableError, lowest_compute_capability, our_gpus
from launcher.errors import MachineError
from launcher.sizing.gpus import has_bfloat16
from rundir.quantities import MIB


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine as the planner sees it."""

    num_cores: int
    memory_bytes: int
    gpu_names: tuple[str, ...] = ()
    gpu_memory_bytes: int = 0
    has_flash_attention: bool = False
    compute_capability: float | None = None
    """The lowest of its GPUs, as NVIDIA counts generations; `None` where nobody told."""
    is_imagined: bool = False
    """Supposed, for a plan that asks what if: there may be several such nodes."""

    @property
    def num_gpus(self) -> int:
        """GPUs on this machine."""
        return len(self.gpu_names)

    @property
    def lacks_bfloat16(self) -> str:
        """Name of its GPU if that is of a generation without bfloat16, else empty."""
        return next((name for name in self.gpu_names if not has_bfloat16(name, self.compute_capability)), "")


def this_machine() -> Machine:
    """The machine that this process runs on.

    Raises:
        MachineError: there is an NVIDIA driver, but it does not answer.
    """
    gpus = _gpus()
    return Machine(
        num_cores=_num_cores(),
        memory_bytes=_memory_bytes(),
        gpu_names=tuple(gpu.name for gpu in gpus),
        gpu_memory_bytes=min((gpu.total_mib * MIB for gpu in gpus), default=0),
        compute_capability=lowest_compute_capability({gpu.index for gpu in gpus}) if gpus else None,
        has_flash_attention=importlib.util.find_spec("flash_attn") is not None,
    )


def _gpus() -> list[Gpu]:
    """Each visible GPU whose memory is known; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        return [gpu for gpu in our_gpus() if gpu.total_mib]
    except UnreadableError as error:
        raise MachineError(
            f"nvidia-smi is here but does not answer: {error}",
            "Mend the driver, or set `resources: {gpu: none}` to train on the CPU.",
        ) from error


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
