"""When nothing fits: the smallest changes of the job that would make it fit, each tried, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launcher.errors import JobError, MachineError
from launcher.jobfile.schema import JobFile
from launcher.planner.choice.search import Question, Ranked, search
from launcher.planner.layouts.candidates import Candidate, PlanningContext
from launcher.planner.settings.node_counts import NODE_COUNTS, step_layouts_for
from launcher.yamlfile.problems import SettingError
from rundir.quantities import count, gib

LEAST_RANK = 4
LEAST_LENGTH = 512
MOST_NODES = 64
MOST_WAYS = 4

Changes = dict[str, dict[str, Any]]


def nothing_fits(ranked: Ranked, context: PlanningContext) -> JobError:
    """The error that says what the leanest plan needs, and what would fit."""
    job, least, limit_bytes = ranked.job, ranked.leanest, ranked.limit_bytes
    phase = least.prediction.binding_phase if least.prediction else ""
    gpus = least.step_layout.world_size
    ranks = f" on {count(gpus, 'GPU')}" if least.step_layout.device == "cuda" else ""
    return JobError(
        f"no plan fits: the leanest ({least.label}{ranks}) needs {gib(least.peak_bytes)} per rank "
        f"in its {phase} phase, and {gib(limit_bytes)} are usable{_correction_note(least, limit_bytes)}",
        _remedy(job, context, least.step_layout.device),
    )


def _correction_note(least: Candidate, limit_bytes: int) -> str:
    """A note if the plan would fit without corrections from measurements."""
    corrections = least.corrections
    if corrections is None or not corrections.memory_correction.runs or corrections.prediction.peak_bytes > limit_bytes:
        return ""
    return f", after {corrections.memory_correction.in_words()}; --no-correction leaves that out"


def _remedy(job: JobFile, context: PlanningContext, device: str) -> str:
    """What would fit on GPUs, each change searched; general advice on the CPU."""
    if device == "cpu":
        leaner = "`method: {kind: lora}`, " if job.method.kind == "full" else "`quantization: nf4` in `method`, "
        leaner = "" if job.method.quantization == "nf4" else leaner
        return f"Use {leaner}a shorter data.max_length, a smaller model, or more ranks."
    ways = ways_to_fit(job, context)
    if not ways:
        return f"Nothing near fits, not even {MOST_NODES} nodes: use a smaller model or GPUs with more memory."
    return f"Would fit, each alone: {'; '.join(ways)}."


def ways_to_fit(job: JobFile, context: PlanningContext) -> list[str]:
    """Changes that make the job fit, in words, the smallest first."""
    found: list[str] = []
    for words, changes in _changes(job, context):
        kind = words.split(":")[0]
        if any(way.startswith(f"{kind}:") for way in found):
            continue
        more_nodes = "nodes" in changes.get("resources", {})
        if _fits(_changed(job, changes), context, imagined=more_nodes):
            found.append(words)
        if len(found) == MOST_WAYS:
            break
    return found


def _changes(job: JobFile, context: PlanningContext) -> Iterator[tuple[str, Changes]]:
    """Possible changes, those that affect the result least first."""
    yield from _open_layout(job)
    yield from _fewer_numbers(job)
    yield from _more_nodes(job, context)
    length = job.data.max_length // 2
    while length >= LEAST_LENGTH:
        yield f"data.max_length: {length}", {"data": {"max_length": length}, "training": {"tokens_per_step": "auto"}}
        length //= 2
    if job.method.kind == "full":
        lora = job.method.model_copy(update={"kind": "lora"}).model_dump()
        yield "method: {kind: lora}", {"method": lora}
        yield "method: {kind: lora, quantization: nf4}", {"method": lora | {"quantization": "nf4"}}


def _open_layout(job: JobFile) -> Iterator[tuple[str, Changes]]:
    """Layout settings that the job file fixes although results do not depend on them."""
    closed = {name: "auto" for name in ("engine", "micro_batch") if getattr(job.resources, name) != "auto"}
    for name in closed:
        yield f"resources.{name}: auto", {"resources": {name: "auto"}}
    if job.resources.shard_quantized is False and job.method.quantization:
        yield "resources.shard_quantized: true", {"resources": {"shard_quantized": True}}
    if job.training.gradient_checkpointing is False:
        yield "training.gradient_checkpointing: true", {"training": {"gradient_checkpointing": True}}
    if len(closed) > 1:
        yield "resources: engine and micro_batch auto", {"resources": closed}


def _fewer_numbers(job: JobFile) -> Iterator[tuple[str, Changes]]:
    """A lower rank of adapters, and a base in four bits."""
    if job.method.kind != "lora":
        return
    rank = job.method.r // 2
    while rank >= LEAST_RANK:
        yield f"method.r: {rank}", {"method": {"r": rank}}
        rank //= 2
    if job.method.quantization != "nf4":
        yield "method.quantization: nf4", {"method": {"quantization": "nf4"}}


def _more_nodes(job: JobFile, context: PlanningContext) -> Iterator[tuple[str, Changes]]:
    here = job.cluster.profile == "local" and not context.machine.is_imagined
    where = " on a cluster of such machines" if here else ""
    setting = "max_nodes" if job.resources.nodes == "auto" and not here else "nodes"
    taken = job.resources.max_nodes if setting == "max_nodes" else job.resources.nodes
    least = taken if isinstance(taken, int) else 1
    for nodes in (number for number in NODE_COUNTS if least < number <= MOST_NODES):
        step = {"training": {"tokens_per_step": "auto"}}
        yield f"resources.{setting}: {nodes}{where}", {"resources": {"nodes": nodes}} | step


def _changed(job: JobFile, changes: Changes) -> JobFile:
    sections = {name: getattr(job, name).model_copy(update=update) for name, update in changes.items()}
    return job.model_copy(update=sections)


def _fits(job: JobFile, context: PlanningContext, *, imagined: bool) -> bool:
    """Whether the leanest layout of the changed job fits: one pack at a time, with checkpointing where it is open."""
    lean: Changes = {"resources": {}, "training": {}}
    if job.resources.micro_batch == "auto":
        lean["resources"]["micro_batch"] = 1
    if job.training.gradient_checkpointing == "auto":
        lean["training"]["gradient_checkpointing"] = True
    try:
        step_layouts = step_layouts_for(job, context.machine, imagined=imagined, shape=context.shape, data=context.data)
        question = Question(job=_changed(job, lean), step_layouts=step_layouts, context=context, with_speed=False)
        return bool(search(question).fitting)
    except (JobError, SettingError, MachineError):
        return False
