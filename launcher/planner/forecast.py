"""Speed, hours, money and walltime slices of a plan, and whether they keep deadline and budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.calibration.correction import allocated_bytes
from launcher.jobfile.schema import JobFile
from launcher.planner.layouts.candidates import Candidate
from launcher.planner.settings.defaults import Decision
from launcher.planner.settings.num_steps import steps_of
from launcher.sizing.host import Host, host
from launcher.sizing.prediction import BEYOND
from launcher.sizing.speed.cost import SLICE_OVERHEAD_HOURS, slices_of
from rundir.quantities import GIB, gib

CPU_CAUTION = "speed on the CPU is a guess, good to a factor of five, until a run here has corrected it"


def hours(job: JobFile, candidate: Candidate) -> float | None:
    """Hours of the whole run; `None` where speed or steps are not known before it starts."""
    steps = steps_of(job, candidate.step_layout).number
    return candidate.speed.step_seconds * steps / 3600 if candidate.speed and steps else None


def cost(job: JobFile, candidate: Candidate) -> float | None:
    """US dollars of the whole run; `None` where hours or price are not known."""
    lasts, gpu = hours(job, candidate), candidate.gpu
    if lasts is None or gpu is None or gpu.price is None:
        return None
    return lasts * candidate.layout.ranks * gpu.price


def over_limit(job: JobFile, candidate: Candidate) -> str:
    """Why a candidate exceeds the deadline or the budget; empty when it keeps them or that is unknown."""
    lasts, deadline = None if _is_guess(candidate) else hours(job, candidate), job.resources.deadline_hours
    if lasts is not None and deadline is not None and lasts > deadline:
        return f"takes {lasts:,.1f} h, and the deadline is {deadline:g} h"
    costs, budget = cost(job, candidate), job.resources.budget
    if costs is not None and budget is not None and costs > budget:
        return f"costs {costs:,.0f} USD, and the budget is {budget:g} USD"
    return ""


def _is_guess(candidate: Candidate) -> bool:
    """Whether the speed is an uncorrected guess for the CPU, by which nothing is refused."""
    return candidate.step_layout.device == "cpu" and not _corrections(candidate)["speed"]


def why_unchecked(job: JobFile, candidate: Candidate) -> Iterator[Decision]:
    """Notes for a deadline or budget that cannot be checked, with what is missing."""
    lasts = None if _is_guess(candidate) else hours(job, candidate)
    asked = {"deadline_hours": lasts, "budget": cost(job, candidate)}
    for name, known in asked.items():
        limit = getattr(job.resources, name)
        if limit is not None and known is None:
            steps = steps_of(job, candidate.step_layout).number
            needs = "training.max_steps" if not steps else "a known GPU with a price"
            needs = "a run on this machine's CPU first" if _is_guess(candidate) and name == "deadline_hours" else needs
            yield Decision(setting=f"resources.{name}", value=limit, reason=f"not checked: that needs {needs}")


def node_memory(candidate: Candidate) -> Host | None:
    """Host memory of one node with GPUs, while loading and in training; `None` where the model is not known."""
    given = candidate.memory_input
    return None if given is None or given.hardware.is_cpu else host(given, candidate.layout.ranks_per_node)


def host_memory_shortage(candidate: Candidate, node_bytes: int) -> str:
    """Why a node's host memory is too small for a plan; empty when it is enough or unknown."""
    needs = node_memory(candidate)
    if needs is None or needs.training <= node_bytes / GIB:
        return ""
    return f"takes {needs.training:.0f} GiB of each node's memory in training, and it has {gib(node_bytes, 0)}"


def host_memory_notes(candidate: Candidate, node_bytes: int) -> Iterator[Decision]:
    """A note if a node has less host memory than loading or training takes."""
    needs = node_memory(candidate)
    if needs and max(needs.load, needs.training) > node_bytes / GIB:
        reason = f"may not be enough: up to {needs.load:.0f} GiB while loading, {needs.training:.0f} in training"
        yield Decision(setting="node memory", value=gib(node_bytes, 0), reason=reason)


def forecast_json(candidate: Candidate, steps: int | None, walltime_seconds: int | None) -> dict[str, Any]:
    """Speed, hours and cost for plan.json; unknown values are null."""
    if candidate.speed is None:
        return {}
    speed, needs = candidate.speed, node_memory(candidate)
    found = {
        "step_seconds": speed.step_seconds,
        "step_parts_seconds": speed.parts,
        "tokens_per_second": speed.tokens_per_second,
        "tokens_per_second_per_gpu_interval": [speed.low, speed.high],
        **_gpu_json(candidate),
        "walltime_hours": walltime_seconds / 3600 if walltime_seconds else None,
        "node_memory_gib": needs.as_json() if needs else None,
    }
    return found | bill_json(found, steps, candidate.step_layout.world_size)


def _gpu_json(candidate: Candidate) -> dict[str, Any]:
    """MFU, price and cautions of the GPU; null for the CPU."""
    gpu = candidate.gpu
    if candidate.speed is None or gpu is None:
        nothing = dict.fromkeys(("mfu", "gpu", "usd_per_gpu_hour", "price_note"))
        return nothing | {"cautions": [CPU_CAUTION] if not _corrections(candidate)["speed"] else []}
    return {
        "mfu": candidate.speed.mfu,
        "gpu": gpu.name,
        "usd_per_gpu_hour": gpu.price,
        "price_note": f"{gpu.price_date}, {gpu.price_source}".strip(", ") if gpu.price else None,
        "cautions": list(gpu.cautions),
    }


def _corrections(candidate: Candidate) -> dict[str, Any]:
    corrections = candidate.corrections
    if corrections is None:
        return {"speed": None, "memory": None}
    return {"speed": corrections.speed_correction.as_json(), "memory": corrections.memory_correction.as_json()}


def calibration_json(candidate: Candidate) -> dict[str, Any]:
    """Correction factors, uncorrected predictions, and the key under which this run's measurement is stored."""
    corrections = candidate.corrections
    if corrections is None:
        return {}
    uncorrected = {
        "peak_bytes": corrections.prediction.peak_bytes,
        "allocated_bytes": allocated_bytes(corrections.prediction),
        "step_seconds": corrections.speed.step_seconds if candidate.speed and corrections.speed else None,
    }
    phases = {
        phase: sum(size for name, size in parts.items() if name not in BEYOND)
        for phase, parts in corrections.prediction.parts.items()
    }
    return {
        "measured_as": asdict(corrections.key),
        "uncorrected": uncorrected,
        "allocated_phases_bytes": phases,
        "corrections": _corrections(candidate),
    }


def bill_json(prediction: dict[str, Any], steps: int | None, num_gpus: int) -> dict[str, Any]:
    """Hours, GPU-hours, cost and slices of so many steps at a predicted speed."""
    if not prediction.get("step_seconds"):
        return {}
    seconds, walltime = prediction["step_seconds"], prediction.get("walltime_hours")
    price = prediction.get("usd_per_gpu_hour")
    lasts = seconds * steps / 3600 if steps else None
    useful = bool(lasts and walltime and walltime > SLICE_OVERHEAD_HOURS)
    return {
        "hours": lasts,
        "gpu_hours": lasts * num_gpus if lasts else None,
        "cost": lasts * num_gpus * price if lasts and price else None,
        "walltime_slices": slices_of(lasts, walltime) if lasts and walltime and useful else None,
    }
