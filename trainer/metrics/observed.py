"""What a run really takes: speed and memory of its ranks, in `observed.json` beside the plan that predicted them."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from trainer.engines.base import Engine
from trainer.metrics.other_load import OtherLoad, load
from trainer.model.adapters.quantise import stored_tensors
from trainer.runtime.collectives import Ranks
from trainer.runtime.files import write_json_atomic
from trainer.runtime.phase_clock import PhaseClock

logger = logging.getLogger(__name__)

OBSERVED = "observed.json"
STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Observer:
    """Counts an attempt's steps, and writes what they took whenever the run saves.

    The first step of an attempt is left out: kernels are chosen and buffers are made in it.
    """

    def __init__(self, run_dir: Path, ranks: Ranks, attempt: int, engine: Engine, phases: PhaseClock) -> None:
        self._file, self._ranks, self._attempt = run_dir / OBSERVED, ranks, attempt
        self._engine, self._phases = engine, phases
        self._steps, self._tokens, self._fill = -1, 0, 0.0
        self._others = OtherLoad(engine.device)
        forget_peak(engine.device)

    def step(self, tokens: int, fill: float) -> None:
        """One step is done.

        Args:
            tokens: of all ranks.
            fill: tokens over the capacity of the step's packs.
        """
        self._steps += 1
        if self._steps == 0:
            self._others = OtherLoad(self._engine.device)
        else:
            self._tokens, self._fill = self._tokens + tokens, self._fill + fill

    def write(self, step: int) -> None:
        """Write what was observed until now; all ranks call this together."""
        mine = {**memory(self._engine.device), **{f"held:{n}": size for n, size in held_bytes(self._engine).items()}}
        everyone, loads = self._ranks.gather(mine), self._ranks.gather(self._others.of_this_rank())
        if not self._ranks.is_first or self._steps < 1:
            return
        try:
            write_json_atomic(
                self._file, {"attempt": self._attempt, "step": step, **self._facts(everyone), "load": load(loads)}
            )
        except OSError as error:  # a full disk loses what was observed, not the run
            logger.warning(f"{self._file} cannot be written: {error}")

    def _facts(self, everyone: list[dict[str, Any]]) -> dict[str, Any]:
        seconds = self._phases.seconds()["training"]
        most = {name: _largest(one[name] for one in everyone) for name in everyone[0]}
        return {
            "steps": self._steps,
            "step_seconds": seconds / self._steps,
            "tokens_per_second": self._tokens / seconds if seconds else None,
            "fill": self._fill / self._steps,
            "world_size": self._ranks.size,
            "device": self._engine.device.type,
            "device_name": device_name(self._engine.device),
            "memory_bytes": {name: size for name, size in most.items() if not name.startswith("held:")},
            "components_bytes": {n.removeprefix("held:"): size for n, size in most.items() if n.startswith("held:")},
            "torch": torch.__version__,
        }


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def forget_peak(device: torch.device) -> None:
    """Peaks count from here on: what loading took is not what training takes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # where it is not allowed, the peak is that of the whole process
        CLEAR_PEAK.write_text("5")


def memory(device: torch.device) -> dict[str, int | None]:
    """Peaks of this rank: allocated and reserved by torch, and what the process has; on the CPU only the last."""
    if device.type != "cuda":
        return {"allocated": None, "reserved": None, "process": _peak_resident()}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
        "process": total - free,
    }


def _peak_resident() -> int | None:
    """Most resident memory of this process, in bytes."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def held_bytes(engine: Engine) -> dict[str, int]:
    """Bytes of this rank between two steps: weights, a master copy beside them, and moments."""
    seen: set[int] = set()
    weights = [_local(tensor) for tensor in (*engine.model.parameters(), *engine.model.buffers())]
    weights += stored_tensors(engine.model)
    ranges = engine.ranges()
    return {
        "weights": _new_bytes(weights, seen),
        "master_weights": _new_bytes((r.view for r in ranges if r.kind == "param"), seen),
        "moments": _new_bytes((r.view for r in ranges if r.kind != "param"), seen),
    }


def _local(tensor: Any) -> torch.Tensor:
    """What this rank holds of a tensor: FSDP2's shard, ZeRO-3's partition, or all."""
    local: torch.Tensor = getattr(tensor, "_local_tensor", getattr(tensor, "ds_tensor", tensor))
    return local


def _new_bytes(tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    """Bytes of those storages that were not counted before."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage._cdata not in seen:  # two storages at one address would be one
            seen.add(storage._cdata)
            total += storage.nbytes()
    return total
