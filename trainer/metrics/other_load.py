"""What else used the machine while steps were timed: a step beside others' work says little about one alone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CPU_TIMES = Path("/proc/stat")
IDLE = (3, 4)
"""Columns of idle time and of waiting for disks, behind a CPU's name in `/proc/stat`."""


class OtherLoad:
    """Counts, from its making on, what this process takes of its CPUs and what all processes take."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cpus = device, os.sched_getaffinity(0)
        self._began = (time.monotonic(), time.process_time(), self._busy_seconds())

    def of_this_rank(self) -> dict[str, Any]:
        """What this rank knows; `load` puts all ranks' together."""
        wall, own, busy = self._began
        return {
            "host": socket.gethostname(),
            "cores": len(self._cpus),
            "wall_seconds": time.monotonic() - wall,
            "own_seconds": time.process_time() - own,
            "busy_seconds": self._busy_seconds() - busy,
            "other_gpu_bytes": self._other_gpu_bytes(),
        }

    def _busy_seconds(self) -> float:
        """Seconds that the CPUs of this process have worked since they were started, for whomever."""
        try:
            lines = CPU_TIMES.read_text(encoding="ascii").splitlines()
        except OSError:
            return 0.0
        ticks = 0
        for name, *columns in (line.split() for line in lines if line.startswith("cpu")):
            if name[3:].isdigit() and int(name[3:]) in self._cpus:
                ticks += sum(int(count) for column, count in enumerate(columns[:8]) if column not in IDLE)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _other_gpu_bytes(self) -> int:
        """Memory of the GPU that torch does not hold here: contexts and communicators, and what others have."""
        if self._device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self._device)
        return max(0, total - free - torch.cuda.memory_reserved(self._device))


def load(everyone: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the first rank's node: its cores, and how many of them the run and others kept busy on average."""
    here = [one for one in everyone if one["host"] == everyone[0]["host"]]
    cores, wall = everyone[0]["cores"], max(everyone[0]["wall_seconds"], 1e-9)
    ours = sum(one["own_seconds"] for one in here) / wall
    return {
        "cores": cores,
        "our_cores": round(ours, 2),
        "other_cores": round(max(0.0, everyone[0]["busy_seconds"] / wall - ours), 2),
        "other_gpu_bytes": max(one["other_gpu_bytes"] for one in everyone),
    }
