"""What is different between two plans of one run, and what each difference means for a run that has trained already.

A run's position in its data is a step number, and a step is a fixed set of packs. So whatever decides which packs a
step holds, or what is minimised over them, cannot change under a run; what lays them over ranks, or says when to save
and how far to go, can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError
from launcher.yamlfile.problems import shown
from rundir.change_rules import ChangeKind, change_rule
from trainer.config import TrainerConfig

FREE, CURVE, REFUSED = ChangeKind.FREE, ChangeKind.CURVE, ChangeKind.REFUSED

UNSTRETCHED = ("constant", "constant_with_warmup")
"""Schedules whose rate does not depend on how long the run is."""
SILENT = ("execution.num_proc", "launch.remedies", "launch.health.free", "launch.threads_per_rank")
"""What follows from the machine and touches nothing that a person would look for."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that differs; `kind` is `free`, `curve` or `refused`."""

    setting: str
    was: Any
    now: Any
    kind: str
    effect: str

    def as_json(self) -> dict[str, Any]:
        """The change as it stands in plan.json."""
        return {"setting": self.setting, "was": self.was, "now": self.now, "effect": self.effect}

    def cells(self) -> tuple[str, str, str, str]:
        """The change as a row of a table."""
        return self.setting, shown(self.was), shown(self.now), self.effect


def compare(old: dict[str, Any], new: dict[str, Any], step: int | None) -> list[Change]:
    """The settings that differ between two plans, what is refused first.

    Args:
        old: plan.json as it stands.
        new: plan.json as it is to be.
        step: The step that the run would go on from; `None` when it has not saved anything, so nothing binds it.
    """
    before, after = _settings(old), _settings(new)
    names = [name for name in after | before if not name.startswith(SILENT)]
    schedule = after["training.lr_scheduler_type"]
    changes = [
        _change(name, before.get(name), after.get(name), step, schedule)
        for name in names
        if before.get(name) != after.get(name)
    ]
    return sorted(changes, key=lambda change: (REFUSED, CURVE, FREE).index(change.kind))


def trainer_of(plan: dict[str, Any]) -> TrainerConfig:
    """The trainer's part of a plan.

    Raises:
        JobError: it was written by another version, or edited by hand.
    """
    try:
        return TrainerConfig.model_validate(plan["trainer"])
    except (KeyError, ValueError) as error:
        raise JobError(f"the run's plan.json cannot be read: {error}", "Submit the job as a new run.") from None


def _settings(plan: dict[str, Any]) -> dict[str, Any]:
    """Dotted name to value; settings that an older version did not write have their defaults."""
    trainer = trainer_of(plan).model_dump(mode="json")
    return dict(_flat(trainer)) | dict(_flat(plan.get("launch") or {}, "launch."))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, list) and inner and all(isinstance(entry, dict) for entry in inner):
            columns = {key: [entry.get(key) for entry in inner] for entry in inner for key in entry}
            yield from _flat(columns, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _change(name: str, was: Any, now: Any, step: int | None, schedule: str) -> Change:
    kind, effect = _meaning(name, step, schedule)
    return Change(setting=name, was=was, now=now, kind=kind, effect=effect)


def _meaning(name: str, step: int | None, schedule: str) -> tuple[str, str]:
    if step is None:
        return FREE, "nothing has been saved yet"
    kind, effect = change_rule(name)
    if kind is ChangeKind.REFUSED:
        return REFUSED, f"must not change: {effect}"
    if kind is ChangeKind.CURVE:
        return CURVE, f"{effect} from step {step} on"
    if kind is ChangeKind.LENGTH and schedule not in UNSTRETCHED:
        effect += f"; the {schedule} schedule spans the new length, so the rate changes from step {step} on"
    return FREE, effect
