"""From a job file to the content of plan.json: what was decided, why, and what was turned down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.submitting.site_profiles import SiteProfile
from launcher import __version__
from launcher.advice.idle_settings import idle_settings
from launcher.calibration.correction import Calibration
from launcher.calibration.store import read, store_path
from launcher.dataset.size import DatasetSize
from launcher.dataset.text_tokens import USUAL_VOCABULARY, estimate_size
from launcher.errors import JobError
from launcher.jobfile.schema import SHARED_SECTIONS, JobFile
from launcher.model.files import find_config
from launcher.planner.choice.select import Choice, choose
from launcher.planner.forecast import calibration_json, forecast_json, host_memory_notes
from launcher.planner.grace_period import grace_of, predicted, refuse_no_time, site_grace_too_short
from launcher.planner.launch_spec import launch_json
from launcher.planner.layouts.candidates import PlanningContext
from launcher.planner.layouts.gpu_candidate import planned_gpu
from launcher.planner.remote import UNKNOWN_HOST_BYTES, cluster_json, job_there
from launcher.planner.settings.defaults import MOST_CPU_RANKS, MOST_TOKENIZER_PROCESSES, Decision, StepLayout
from launcher.planner.settings.node_counts import step_layouts_for
from launcher.planner.settings.num_steps import Steps, step_warnings, steps_of, with_packing
from launcher.planner.settings.packing_off import apart
from launcher.planner.tokenising import tokenising
from launcher.site.hardware import Machine
from launcher.sizing.memory.limits import COUNTED_SPREAD
from launcher.sizing.shape import ModelShape, find_model, shape_by_name, shape_of_folder, targeted, without_adapters
from launcher.yamlfile.problems import SettingError
from rundir import plan as plan_file
from rundir.quantities import count
from trainer.capabilities import OWN
from trainer.config import TrainerConfig
from trainer.schedule_rules import check_schedule

DOUBT = 3
"""Times as many steps as were estimated: what fails even so is refused before the data is counted."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided about a run before it starts."""

    trainer: TrainerConfig
    launch: dict[str, Any]
    decisions: list[Decision]
    choice: Choice
    shape: ModelShape | None
    steps: Steps
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        return {
            "tuneyard": __version__,
            "trainer": trainer_json(self.trainer),
            "launch": self.launch,
            "steps": self.steps.as_json(),
            "warnings": list(self.warnings),
            "decisions": [decision.as_json() for decision in self.decisions],
            "prediction": self._prediction_json(),
            "rejected": [rejected.as_json() for rejected in self.choice.rejected],
        }

    def document(self) -> plan_file.Plan:
        """plan.json, as those read it who carry the plan out."""
        return plan_file.Plan.from_json(self.as_json())

    def _prediction_json(self) -> dict[str, Any] | None:
        prediction = self.choice.candidate.prediction
        if prediction is None:
            return None
        return {
            **prediction.as_json(),
            "limit_bytes": self.choice.limit_bytes,
            "steps": self.steps.number,
            "steps_from": self.steps.source or None,
            **self.forecast_json(),
            **calibration_json(self.choice.candidate),
        }

    def forecast_json(self) -> dict[str, Any]:
        """Speed, hours and cost; empty where they cannot be known."""
        candidate, walltime = self.choice.candidate, self.launch.get("walltime_seconds")
        return forecast_json(candidate, self.steps.number, walltime)


def make_plan(
    job: JobFile,
    machine: Machine,
    profile: SiteProfile | None = None,
    *,
    files_here: bool = False,
    calibration: Calibration | None = None,
    tokenised: DatasetSize | None = None,
) -> Plan:
    """Decides every `auto` of a job.

    Args:
        job: The checked job file, its paths absolute.
        machine: Where the run takes place; one of its nodes.
        profile: The cluster that the nodes belong to; `None` for this machine.
        files_here: Leave the job's files where this machine sees them.
        calibration: Measurements that correct predictions; by default those that the cluster's store holds.
        tokenised: What a run or `check` has counted in the data; else it is estimated from its text.

    Raises:
        TuneyardError: something contradicts itself, is not here, or does not fit.
    """
    shape, from_catalogue = _shape(job)
    if calibration is None:
        calibration = Calibration(measurements=read(store_path(profile.run_folder() if profile else None)))
    data = tokenised or estimate_size(job, shape.vocab_size if shape else USUAL_VOCABULARY)
    job, stateful = apart(job)
    job, packing = with_packing(job, data, _most_ranks(job, machine))
    is_known = machine.memory_bytes != UNKNOWN_HOST_BYTES
    context = PlanningContext(
        machine=machine,
        gpu=planned_gpu(machine),
        shape=shape,
        calibration=calibration,
        host_bytes=machine.memory_bytes if is_known else 0,
        data=data,
    )
    choice = choose(job, step_layouts_for(job, machine, shape=shape, data=context.data), context)
    step_layout = choice.step_layout
    short = host_memory_notes(choice.candidate, machine.memory_bytes) if is_known else ()
    threads = _threads(step_layout, machine, profile)
    needs = predicted(choice)
    grace_seconds, grace = grace_of(job, needs)
    launch = launch_json(job, choice, context, threads.value, grace_seconds)
    if profile is not None:
        launch |= cluster_json(job, profile, step_layout.ranks_per_node, step_layout.device, threads.value)
        refuse_no_time(launch)
        grace += site_grace_too_short(profile.preemption.grace_seconds, needs)
        job = job if files_here else job_there(job, profile)
    trainer, steps = _trainer_config(job, step_layout, choice, machine), steps_of(job, step_layout)
    doubts = _check_schedule(trainer, steps)
    told = tokenising(launch, step_layout.data.tokens, trainer.execution.num_proc, choice.candidate)
    return Plan(
        trainer=trainer,
        launch=launch,
        decisions=[
            *from_catalogue,
            *stateful,
            *packing,
            *_adapter_notes(job, context.shape),
            *step_layout.decisions,
            *choice.decisions,
            threads,
            *grace,
            *short,
            *told,
        ],
        choice=choice,
        shape=context.shape,
        steps=steps,
        warnings=(*step_warnings(job, step_layout), *doubts, *idle_settings(job)),
    )


def _most_ranks(job: JobFile, machine: Machine) -> int:
    """Ranks on the nodes that are asked for, or on one."""
    asked = job.resources
    on_cpu = asked.gpu == "none" or not machine.num_gpus
    here = min(MOST_CPU_RANKS, machine.num_cores) if on_cpu else machine.num_gpus
    each = asked.cpu_ranks if on_cpu else asked.gpus_per_node
    return (here if each == "auto" else each) * (1 if asked.nodes == "auto" else asked.nodes)


def _check_schedule(trainer: TrainerConfig, steps: Steps) -> tuple[str, ...]:
    """Warnings about a schedule that does not suit the estimated number of steps.

    Raises:
        SettingError: the schedule cannot be followed, however far an estimate may be off.
    """
    likely = check_schedule(trainer.training, steps.number)
    certain = likely if steps.is_exact or not steps.number else check_schedule(trainer.training, DOUBT * steps.number)
    for problem in certain:
        raise SettingError(problem.setting, problem.message, got=problem.got, remedy=problem.remedy)
    return tuple(f"{problem}, by an estimate. {problem.remedy}".strip() for problem in likely)


def _shape(job: JobFile) -> tuple[ModelShape | None, list[Decision]]:
    """The model's shape from its `config.json` or the catalogue, with a note if from the latter; else `None`.

    Raises:
        SettingError: the architecture is not described, and its tensors cannot be counted.
    """
    config = find_config(job.model.path, job.model.revision)
    if config:
        return _shape_here(config.parent)
    name = find_model(job.model.path)
    if name is None:
        return None, []
    reason = "its config.json is not on this machine, so the shape is the catalogue's"
    return shape_by_name(name), [Decision(setting="model.shape", value=name, reason=reason)]


def _shape_here(folder: Path) -> tuple[ModelShape, list[Decision]]:
    """The shape of a local model, with a note if its tensors had to be counted."""
    try:
        shape = shape_of_folder(folder)
    except JobError as error:
        raise SettingError("model.path", error.message, remedy=error.remedy) from None
    if not shape.counted:
        return shape, []
    reason = f"{'; '.join(shape.notes)}; {100 * COUNTED_SPREAD:.0f} % of memory is left free for what may differ"
    return shape, [Decision(setting="model.shape", value=f"{shape.num_parameters:,} parameters", reason=reason)]


def _adapter_notes(job: JobFile, shape: ModelShape | None) -> list[Decision]:
    """A note if routed experts get no adapters."""
    if job.method.kind != "lora" or shape is None:
        return []
    if not without_adapters(shape, targeted(shape, job.method.target_modules)):
        return []
    reason = (
        f"PEFT makes none for those of {shape.model_type}, or target_modules does not name them: they stay as they are"
    )
    return [Decision(setting="experts", value="no adapters", reason=reason)]


def _threads(step_layout: StepLayout, machine: Machine, profile: SiteProfile | None) -> Decision:
    threads, reason = 1, "the cores of the nodes are not known here"
    if not machine.is_imagined and (profile is None or step_layout.device == "cuda"):
        threads = max(1, machine.num_cores // step_layout.ranks_per_node)
        reason = f"{count(machine.num_cores, 'core')} / {count(step_layout.ranks_per_node, 'rank')}"
    return Decision(setting="launch.threads_per_rank", value=threads, reason=reason)


def _trainer_config(job: JobFile, step_layout: StepLayout, choice: Choice, machine: Machine) -> TrainerConfig:
    best = choice.candidate
    sections = {name: getattr(job, name).model_dump() for name in SHARED_SECTIONS}
    sections["method"] = _method_json(job)
    if step_layout.attention == OWN:
        sections["data"]["packing"] = False
    sections["model"] |= {"attention": step_layout.attention, "dtype": step_layout.dtype}
    sections["training"] |= {
        "tokens_per_step": step_layout.packs_per_step * job.data.max_length,
        "learning_rate": step_layout.learning_rate,
        "gradient_checkpointing": best.checkpointing,
    }
    execution = {
        "engine": best.layout.engine,
        "device": step_layout.device,
        "world_size": step_layout.world_size,
        "packs_per_step": step_layout.packs_per_step,
        "micro_batch": best.layout.micro_batch,
        "accumulation": best.layout.accumulation,
        "shard_quantized": best.layout.shard_quantized,
        "num_proc": min(machine.num_cores, MOST_TOKENIZER_PROCESSES),
    }
    return TrainerConfig.model_validate({"name": job.name, **sections, "execution": execution})


def _method_json(job: JobFile) -> dict[str, Any]:
    """The method section; a full fine-tune has its kind only, since adapter settings are refused beside it."""
    return {"kind": "full"} if job.method.kind == "full" else job.method.model_dump()


def trainer_json(config: TrainerConfig) -> dict[str, Any]:
    """The trainer's part of plan.json."""
    dumped = config.model_dump(mode="json")
    return dumped | ({"method": {"kind": "full"}} if config.method.kind == "full" else {})
