"""One table says what a run may change; launcher, trainer and manual agree with it, for every setting there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from launcher.replan.plan_diff import CURVE, FREE, REFUSED, _meaning
from rundir.change_rules import CHANGE_RULES, change_rule
from trainer.config import SourceConfig, TrainerConfig
from trainer.run.resume import changes_the_curve, is_fixed

MANUAL = Path(__file__).parents[2] / "docs" / "job-file.md"
SAID = {
    "refused": "refused",
    "compared": "may name another place",
    "length": "move the end",
    "rounds": "change freely, and sums round differently",
    "free": "change freely",
    "curve": "changes with a warning",
}


def settings(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of everything that a trainer reads."""
    for name, field in section.model_fields.items():
        inner = SourceConfig if name == "train" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


SETTINGS = [*settings(TrainerConfig), "launch.hang_seconds"]


def test_every_entry_is_about_a_setting() -> None:
    sections = {f"{name.split('.')[0]}." for name in SETTINGS if "." in name}
    assert set(CHANGE_RULES) <= sections | set(SETTINGS)
    assert sections <= set(CHANGE_RULES)


@pytest.mark.parametrize("setting", SETTINGS)
def test_launcher_and_trainer_agree(setting: str) -> None:
    kind, _ = _meaning(setting, 7, "cosine")
    assert (kind == REFUSED) is is_fixed(setting)
    assert (kind == CURVE) is changes_the_curve(setting)
    assert kind in (REFUSED, CURVE, FREE)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("name", "free"),
        ("model.revision", "compared"),
        ("model.dtype", "refused"),
        ("training.full_determinism", "rounds"),
        ("training.learning_rate", "curve"),
        ("data.train.weight", "refused"),
        ("a_setting.of_another_version", "curve"),
    ],
)
def test_what_some_changes_mean(setting: str, kind: str) -> None:
    assert change_rule(setting)[0] == kind


def test_the_manual_says_the_same() -> None:
    text = MANUAL.read_text(encoding="utf-8").partition("## Going on with a changed job")[2].partition("\n## ")[0]
    rows = [line.strip("|").rsplit("|", 1) for line in text.splitlines() if line.startswith("| `")]
    said = {name: words.strip() for names, words in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert set(said) == {name.removesuffix(".") for name in CHANGE_RULES}
    for name, (kind, _) in CHANGE_RULES.items():
        assert said[name.removesuffix(".")].startswith(SAID[kind]), name
