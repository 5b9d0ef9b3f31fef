"""What changing each setting means for a run that has saved a checkpoint: the one table of it."""

from __future__ import annotations

from enum import StrEnum


class ChangeKind(StrEnum):
    """What a change does to a run that has trained."""

    REFUSED = "refused"  # it would be another run
    COMPARED = "compared"  # it may name another place, whose content must be the same
    LENGTH = "length"  # the end moves, and the schedule may stretch
    ROUNDS = "rounds"  # the same sums, rounded differently
    FREE = "free"  # from now on, without effect on what was trained
    CURVE = "curve"  # training goes another way from there on


CHANGE_RULES: dict[str, tuple[ChangeKind, str]] = {
    "name": (ChangeKind.FREE, "only what the run is called"),
    "model.": (ChangeKind.REFUSED, "the checkpoints hold the weights of that model, trained in that type"),
    "model.path": (ChangeKind.COMPARED, "its content must be the same, and is compared before training"),
    "model.revision": (ChangeKind.COMPARED, "its content must be the same, and is compared before training"),
    "model.attention": (ChangeKind.ROUNDS, "the same sums; they may round differently"),
    "method.": (ChangeKind.REFUSED, "the checkpoints hold other tensors than this method trains"),
    "data.": (ChangeKind.REFUSED, "the run has trained on rows, packs and masks made this way"),
    "data.train.path": (ChangeKind.COMPARED, "its content must be the same, and is compared before training"),
    "data.eval.path": (ChangeKind.COMPARED, "its content must be the same, and is compared before training"),
    "loss.": (ChangeKind.REFUSED, "the run has minimised another loss"),
    "loss.chunk_tokens": (ChangeKind.ROUNDS, "the same sums; they may round differently"),
    "training.": (ChangeKind.CURVE, "changes the curve"),
    "training.seed": (ChangeKind.REFUSED, "it orders the data"),
    "training.tokens_per_step": (ChangeKind.REFUSED, "a step is a fixed set of packs"),
    "training.max_steps": (ChangeKind.LENGTH, "how far the run goes"),
    "training.num_train_epochs": (ChangeKind.LENGTH, "how far the run goes"),
    "training.gradient_checkpointing": (ChangeKind.ROUNDS, "the same gradients; other memory and time"),
    "training.full_determinism": (ChangeKind.ROUNDS, "decides whether later resumes are bit-exact"),
    "execution.": (ChangeKind.ROUNDS, "the same steps over the same data; sums may round differently"),
    "execution.packs_per_step": (ChangeKind.REFUSED, "a step is a fixed set of packs"),
    "execution.num_proc": (ChangeKind.FREE, "how many processes tokenise"),
    "checkpoint.": (ChangeKind.FREE, "from now on"),
    "evaluation.": (ChangeKind.FREE, "from now on"),
    "logging.": (ChangeKind.FREE, "from now on"),
    "launch.": (ChangeKind.FREE, "from now on"),
}
"""The kind and the effect of a change, by setting or by section. A setting without an entry has that of its section."""


def change_rule(setting: str) -> tuple[ChangeKind, str]:
    """The kind and the effect of changing a setting, given by its dotted name, under a run that has trained."""
    section = CHANGE_RULES.get(setting.split(".")[0] + ".", (ChangeKind.CURVE, "changes the curve"))
    return CHANGE_RULES.get(setting, section)
