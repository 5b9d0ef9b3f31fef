"""Advice for a job file: its data read as far as it lies here, and warnings where it departs from what is advised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.jobfile import JobFile
from launcher.sizing.advice import Advice, Situation, covered
from launcher.sizing.advice_rules import COVERED_SHARE, ENOUGH_STEPS

CHARACTERS_PER_TOKEN = 4.0
"""English text in vocabularies of 32,000 to 150,000 tokens; code and other languages have fewer."""
TURN_TOKENS = 6
"""What a chat template writes around a turn."""
ROWS_READ = 20_000
MUCH = 3.0
"""A factor by which a setting has to differ to be worth a warning."""


def lengths_of(paths: list[Path]) -> list[int]:
    """About how many tokens each conversation of some JSONL files has; the first 20,000 rows are read."""
    found: list[int] = []
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.strip():
                    found.append(row_tokens(line))
                if len(found) >= ROWS_READ:
                    return found
    return found


def row_tokens(line: str) -> int:
    """About how many tokens the conversation in a JSON line has."""
    try:
        row = json.loads(line)
    except ValueError:
        return max(1, int(len(line) / CHARACTERS_PER_TOKEN))
    turns = list(_texts(row))
    return max(1, int(sum(len(turn) for turn in turns) / CHARACTERS_PER_TOKEN) + TURN_TOKENS * len(turns))


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """Every text of a row but roles and names."""
    if isinstance(value, str):
        if name not in ("role", "from", "id", "name", "source"):
            yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def local_files(job: JobFile, folder: Path) -> list[Path]:
    """Training files of a job that are JSONL and lie on this machine."""
    found: list[Path] = []
    for source in job.data.train:
        path = Path(source.path)
        base = path if path.is_absolute() else folder / path
        matches = base.parent.glob(base.name) if "*" in base.name else [base]
        for match in matches:
            inside = sorted(match.glob("*.jsonl")) if match.is_dir() else [match]
            found += [entry for entry in inside if entry.is_file() and entry.suffix == ".jsonl"]
    return found


def count_rows(paths: list[Path]) -> int:
    """Lines of some files that hold something."""
    total = 0
    for path in paths:
        with path.open("rb") as file:
            total += sum(1 for line in file if line.strip())
    return total


def warnings(job: JobFile, advice: Advice, situation: Situation) -> list[str]:
    """Where a job file departs from the advice, each with what is advised and why."""
    return [*_of_approach(job, advice), *_of_numbers(job, advice), *_of_data(job, advice, situation)]


def _of_approach(job: JobFile, advice: Advice) -> Iterator[str]:
    kind = "qlora" if job.method.quantization == "nf4" else job.method.kind
    if advice.approach != kind and not {advice.approach, kind} <= {"lora", "qlora"}:
        first = advice.reasons[0]
        yield f"method.kind is {job.method.kind}; advised is {advice.approach}: {first.reason} ({first.source})"


def _of_numbers(job: JobFile, advice: Advice) -> Iterator[str]:
    training, method = job.training, job.method
    yield from _far("training.learning_rate", training.learning_rate, advice)
    yield from _far("training.num_train_epochs", training.num_train_epochs, advice, at_least=2.0)
    if training.warmup_steps < 1 and training.warmup_steps > 0.2:
        yield f"training.warmup_steps is {training.warmup_steps:g} of all steps: more than a fifth of them is warm-up"
    if training.weight_decay > 0.2:
        yield f"training.weight_decay is {training.weight_decay:g}; 0 to 0.1 are usual"
    if method.kind == "lora":
        yield from _far("method.r", method.r, advice, at_least=4.0)
        scale = method.lora_alpha / method.r
        if not 0.5 <= scale <= 8 and not method.use_rslora:
            yield f"method.lora_alpha / method.r is {scale:g}; 1 to 2 are usual (Biderman et al. 2024)"


def _far(setting: str, value: Any, advice: Advice, at_least: float = MUCH) -> Iterator[str]:
    advised = advice.value(setting)
    if not isinstance(value, int | float) or not advised or advice.method not in ("full", "lora", "qlora"):
        return
    if not 1 / at_least <= value / advised <= at_least:
        item = next(entry for entry in advice.settings if entry.setting == setting)
        yield f"{setting} is {value:g}; advised is {advised:g}: {item.reason} ({item.source})"


def _of_data(job: JobFile, advice: Advice, situation: Situation) -> Iterator[str]:
    if situation.lengths:
        share = covered(situation.lengths, job.data.max_length)
        if share < COVERED_SHARE:
            yield (
                f"data.max_length {job.data.max_length} covers {100 * share:.1f} % of the rows, "
                f"advised is {advice.value('data.max_length')}: the rest would be {job.data.overlong}"
            )
    step = job.training.tokens_per_step
    if situation.tokens and step != "auto":
        steps = situation.tokens * job.training.num_train_epochs / step
        if steps < ENOUGH_STEPS / 2:
            yield f"about {steps:.0f} optimizer steps: training.tokens_per_step {step} is large for this data"
