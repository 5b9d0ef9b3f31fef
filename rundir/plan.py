"""plan.json: what was decided before anything started; and its `launch`, which the node agent carries out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rundir.document import (
    Document,
    JsonObject,
    as_flag,
    as_integer,
    as_number,
    as_object,
    as_objects,
    as_text,
    as_texts,
    field,
    many,
    nested,
)
from rundir.errors import RunDirError
from rundir.files import read_json
from rundir.paths import RunPaths

PHASES = ("prepare", "train", "export", "evaluate")
DEFAULT_BACKEND = "local"
_EMPTY: JsonObject = {}


class RestartLimits(Document):
    """`launch.restart`: the restart policy's limits."""

    max_crashes: int = field(as_integer, default=3)
    """Crashes and hangs in 24 hours after which the run goes on; the next one stops it."""
    max_attempts_without_progress: int = field(as_integer, default=3)
    """So many attempts in a row that did not advance the checkpoint stop the run."""
    auto: bool = field(as_flag, default=True)
    """False: nothing is ever restarted."""
    backoff_seconds: float = field(as_number, default=10.0)
    """The first wait after a failure; it doubles up to ten minutes."""

    def require_numbers(self) -> None:
        """Raises RunDirError, naming a value that cannot be used."""
        for name in ("max_crashes", "max_attempts_without_progress", "auto", "backoff_seconds"):
            value = self.to_json().get(name, 0)
            if not isinstance(value, int | float) or value < 0:
                raise RunDirError(f"plan.json: launch.restart.{name} is {value!r}, not a number", "plan the job again")


def _as_list(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class HealthSettings(Document):
    """`launch.health`: what a node must pass before an attempt begins on it."""

    checks: tuple[object, ...] = field(_as_list, default=())
    """The user's own checks, as the plan has them; `commands` gives them as commands."""
    skip: tuple[str, ...] = field(as_texts, default=())
    free_disk_bytes: float = field(as_number, default=0.0)
    free_memory_bytes: float = field(as_number, default=0.0)

    def commands(self) -> list[list[str]]:
        """The user's own checks as lists of arguments.

        Raises:
            RunDirError: one is none; it must not be left out in silence.
        """
        for check in self.checks:
            if not isinstance(check, list) or not check or not all(isinstance(word, str) for word in check):
                raise RunDirError(f"plan.json: launch.health.checks has {check!r}", "give each as a list of arguments")
        return [list(map(str, check)) for check in self.checks if isinstance(check, list)]


class LaunchSpec(Document):
    """`launch`: what the agent starts, and how it watches over it (docs/run-directory.md describes the keys)."""

    nodes: int = field(as_integer, default=1)
    ranks_per_node: int = field(as_integer, default=1)
    device: str = field(as_text, default="")
    threads_per_rank: int = field(as_integer, default=1)
    grace_seconds: float = field(as_number, default=0.0)
    phases: tuple[str, ...] = field(as_texts, default=())
    hang_seconds: float | None = field(as_number, default=900.0, keeps_null=True)
    """Seconds without a heartbeat while steps are made that count as a hang; None: never."""
    start_seconds: float | None = field(as_number, default=3600.0, keeps_null=True)
    """The same before the first step is done."""
    join_seconds: float = field(as_number, default=600.0)
    silence_seconds: float = field(as_number, default=180.0)
    restart: RestartLimits = field(nested(RestartLimits), default=RestartLimits())
    health: HealthSettings = field(nested(HealthSettings), default=HealthSettings())
    remedies: Mapping[str, str] = field(as_object, default=_EMPTY)
    afterwards: tuple[str, ...] = field(as_texts, default=())
    run_root: str = field(as_text, default="")
    """The folder of the cluster's runs, where the site profile names one."""
    backend: str = field(as_text, default=DEFAULT_BACKEND)
    profile: str = field(as_text, default="")
    slurm: JsonObject = field(as_object, default=_EMPTY)
    kubernetes: JsonObject = field(as_object, default=_EMPTY)
    cpus_per_node: int | None = field(as_integer, default=None)
    walltime_seconds: int | None = field(as_integer, default=None)
    lead_seconds: int | None = field(as_integer, default=None)
    grace_is_auto: bool = field(as_flag, default=False)

    @property
    def ends_with_training(self) -> bool:
        """Whether no phase comes after training."""
        return self.phases[-1:] == ("train",)

    def after_training(self) -> LaunchSpec:
        """What is left of a run that is trained: one node does it, and no phase looks for the others."""
        return self.changed(nodes=1, phases=self.phases[self.phases.index("train") + 1 :])

    def site(self, backend: str) -> JsonObject:
        """What the backend of that name is told, out of the site profile."""
        return as_object(self.to_json().get(backend)) or {}

    def require_startable(self) -> None:
        """Raises RunDirError, naming what is missing, or what no agent can start."""
        given = self.to_json()
        required = ("nodes", "ranks_per_node", "device", "threads_per_rank", "grace_seconds", "phases")
        if missing := [name for name in required if given.get(name) is None]:
            raise RunDirError(f"plan.json: launch lacks {', '.join(missing)}", "plan the job again")
        self.restart.require_numbers()
        if unknown := [phase for phase in self.phases if phase not in PHASES]:
            raise RunDirError(f"plan.json: launch.phases has unknown {', '.join(unknown)}")


class PlanChange(Document):
    """One command that changed the plan of a run that exists, at a step of its training."""

    time: float = field(as_number, default=0.0)
    by: str = field(as_text, default="")
    step: int | None = field(as_integer, default=None)
    settings: tuple[JsonObject, ...] = field(as_objects, default=())
    """`setting`, `was`, `now` and `effect` of each."""


class Plan(Document):
    """plan.json. The trainer's part is its own configuration (`trainer.config.TrainerConfig`)."""

    version: str = field(as_text, default="", key="tuneyard")
    trainer: JsonObject = field(as_object, default=_EMPTY)
    launch: LaunchSpec = field(nested(LaunchSpec), default=LaunchSpec())
    prediction: JsonObject = field(as_object, default=_EMPTY)
    decisions: tuple[JsonObject, ...] = field(as_objects, default=())
    rejected: tuple[JsonObject, ...] = field(as_objects, default=())
    changes: tuple[PlanChange, ...] = field(many(PlanChange), default=())

    def section(self, name: str) -> JsonObject:
        """A section of the trainer's configuration, empty where there is none."""
        return as_object(self.trainer.get(name)) or {}

    @property
    def name(self) -> str:
        """The job's name."""
        return as_text(self.trainer.get("name")) or ""


def read_plan(run_dir: Path) -> Plan:
    """plan.json, which must be there before anything can start; RunDirError when it is missing or damaged."""
    path = RunPaths(run_dir).plan
    found = read_json(path)
    if found is None:
        raise RunDirError(f"{path}: no such file", "name the directory of a run that was planned")
    return Plan.from_json(found)


def read_launch(run_dir: Path) -> LaunchSpec:
    """The plan's `launch`, complete; RunDirError says why the run cannot be started."""
    launch = read_plan(run_dir).launch
    launch.require_startable()
    return launch
