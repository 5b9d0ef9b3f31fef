"""Whether a run may go on from a checkpoint, and how exactly it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rundir.change_rules import ChangeKind, change_rule
from trainer.checkpoint.format.manifest import Manifest
from trainer.config import TrainerConfig
from trainer.errors import UserError

ROUNDS_OR_MORE = (ChangeKind.CURVE, ChangeKind.LENGTH, ChangeKind.ROUNDS)
"""Changes after which a resume cannot be bit-exact."""


def differences(before: dict[str, Any], now: TrainerConfig) -> dict[str, tuple[Any, Any]]:
    """Settings with another value than a checkpoint's, by dotted name: (then, now)."""
    try:
        then = TrainerConfig.model_validate(before)  # fills in what that version did not have yet
    except ValidationError:
        old = _flat(before)
    else:
        old = _flat(then.model_dump(mode="json"))
    new = _flat(now.model_dump(mode="json"))
    return {name: (old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def is_fixed(setting: str) -> bool:
    """Whether a setting must stay as it is for the life of a run."""
    return change_rule(setting)[0] is ChangeKind.REFUSED


def changes_the_curve(setting: str) -> bool:
    """Whether a setting may change, and training then differs from what it would have been."""
    return change_rule(setting)[0] is ChangeKind.CURVE


def refuse_other_run(folder: Path, manifest: Manifest, config: TrainerConfig, data: str, model: str) -> None:
    """Refuse to go on from a checkpoint of other data, another model or other settings.

    Args:
        data, model: fingerprints of now.

    Raises:
        UserError: with every difference.
    """
    found = [
        f"{name}: was {then!r}, is {now!r}"
        for name, (then, now) in differences(manifest.trainer, config).items()
        if is_fixed(name)
    ]
    if manifest.data["fingerprint"] != data:
        found.append(f"content of the data: was {_short(manifest.data['fingerprint'])}, is {_short(data)}")
    if manifest.model and manifest.model not in (model, f"{config.model.path}@{config.model.revision}"):
        found.append(f"files of model.path: were {_short(manifest.model)}, are {_short(model)}")
    if found:
        raise UserError(
            "the run cannot go on with what has changed since the checkpoint:\n  " + "\n  ".join(found),
            where=str(folder),
            remedy="put the old values, data and model back, or submit a new run",
        )


def refuse_past_the_end(folder: Path, manifest: Manifest, max_steps: int) -> None:
    """
    Raises:
        UserError: the checkpoint is beyond the run's last step.
    """
    if manifest.step > max_steps:
        raise UserError(
            f"the checkpoint is at step {manifest.step}, the job now ends at step {max_steps}",
            where=str(folder),
            remedy="raise training.max_steps or num_train_epochs",
        )


def exactness(manifest: Manifest, config: TrainerConfig) -> tuple[str, str]:
    """How exactly training goes on, and why not more so.

    Returns:
        "bit-exact", or "order-exact" (the same conversations in the same steps); the reason for the latter.
    """
    then, now = manifest.trainer, config.execution
    for name in ("engine", "world_size", "micro_batch", "accumulation", "device"):
        if then["execution"][name] != getattr(now, name):
            return "order-exact", f"{name} was {then['execution'][name]}, is {getattr(now, name)}"
    if changed := [name for name in differences(then, config) if change_rule(name)[0] in ROUNDS_OR_MORE]:
        return "order-exact", f"changed: {', '.join(changed)}"
    if not config.training.full_determinism:
        return "order-exact", "training.full_determinism is off"
    return "bit-exact", ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names to values; entries of a list share their name and are told apart by nothing but their place."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}{name}.").items()}
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        names = sorted({name for entry in value for name in entry})
        return {k: v for n in names for k, v in _flat([entry.get(n) for entry in value], f"{prefix}{n}.").items()}
    return {prefix.removesuffix("."): value}


def _short(fingerprint: str) -> str:
    return fingerprint[:12]
