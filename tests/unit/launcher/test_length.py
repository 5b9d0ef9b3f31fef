"""Steps of a run before its data is tokenised: as asked, estimated from text, or not known, and which of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.decisions import Basics
from launcher.jobfile import load_job
from launcher.length import ESTIMATED, EXACT, FILL, steps_of
from launcher.tokenised import tokenised_by

BASICS = Basics(device="cpu", dtype="float32", attention="padded", world_size=2, packs_per_step=8, learning_rate=1e-3)
SAID = {"messages": [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y" * 400}]}
TOKENS = 800 // 4 + 2 * 6
"""Of the row above: a quarter of its characters, and six for each turn."""


@pytest.fixture
def job(write_job: Callable[..., Path], job_folder: Path) -> Callable[..., object]:
    def make(rows: int, training: str = "num_train_epochs: 1", data: str = "") -> object:
        (job_folder / "train.jsonl").write_text((json.dumps(SAID) + "\n") * rows)
        text = f"""\
name: counted
model: {{path: ./model}}
data:
  train: [{{path: train.jsonl}}]
  max_length: 256
{data}
training: {{{training}}}
"""
        return load_job(write_job(text)).job

    return make


def test_what_the_job_says_is_taken(job) -> None:
    found = steps_of(job(10, "max_steps: 7"), BASICS)
    assert (found.number, found.source) == (7, EXACT)


def test_steps_follow_from_the_text(job) -> None:
    found = steps_of(job(1000), BASICS)
    assert found.source == ESTIMATED
    assert found.number == pytest.approx(1000 * TOKENS / (8 * 256 * FILL), abs=1)
    assert steps_of(job(1000, "num_train_epochs: 3"), BASICS).number == pytest.approx(3 * found.number, abs=3)
    split = steps_of(job(1000, data="  eval: {split: 0.5}"), BASICS)
    assert split.number == pytest.approx(found.number / 2, abs=1)


def test_a_large_file_is_read_in_part_and_counted_whole(job) -> None:
    assert steps_of(job(9000), BASICS).number == pytest.approx(9000 * TOKENS / (8 * 256 * FILL), rel=0.01)


def test_rows_that_are_too_long_count_as_they_are_treated(job) -> None:
    longer = job(1000, data="  overlong: drop")
    changed = longer.model_copy(update={"data": longer.data.model_copy(update={"max_length": 128})})
    assert steps_of(changed, BASICS).number is None, "all are dropped"
    cut = changed.model_copy(update={"data": changed.data.model_copy(update={"overlong": "truncate"})})
    assert steps_of(cut, BASICS).number == pytest.approx(1000 * 128 / (8 * 128 * FILL), abs=1)


def test_data_elsewhere_is_not_guessed(job) -> None:
    made = job(10)
    for path in ("some/dataset-on-the-hub", "/nowhere/rows.jsonl"):
        source = made.data.train[0].model_copy(update={"path": path})
        there = made.model_copy(update={"data": made.data.model_copy(update={"train": [source]})})
        assert steps_of(there, BASICS).number is None


def tokenise(job, run: Path, tokens: int) -> Path:
    """A run directory whose data was tokenised from a job's files, as the trainer leaves it."""
    (run / "data").mkdir(parents=True)
    plan = {"trainer": job.model_dump(mode="json", include={"data", "model"})}
    (run / "plan.json").write_text(json.dumps(plan))
    facts = Path(job.data.train[0].path).stat()
    stat = {job.data.train[0].path: [facts.st_size, facts.st_mtime_ns]}
    (run / "data" / "fingerprint.json").write_text(json.dumps({"stat": stat}))
    (run / "data" / "preflight.json").write_text(json.dumps({"train": {"tokens": tokens}}))
    return run


def test_what_a_run_has_tokenised_is_taken(job, tmp_path: Path) -> None:
    made = job(1000, "num_train_epochs: 2", "  eval: {split: 0.5}")
    runs = [tokenise(made, tmp_path / f"run-{number}", tokens) for number, tokens in ((1, 5), (2, 400_000))]
    known = tokenised_by(runs, made)
    assert known is not None
    assert (known.tokens, known.source) == (400_000, "counted when run-2 tokenised the same data")
    found = steps_of(made, replace(BASICS, tokenised=known))
    assert (found.number, found.source) == (math.ceil(400_000 / (8 * 256 * FILL)), known.source)
    exact = made.model_copy(update={"training": made.training.model_copy(update={"max_steps": 3})})
    assert steps_of(exact, replace(BASICS, tokenised=known)).source == EXACT


def test_what_was_tokenised_otherwise_is_not_taken(job, tmp_path: Path) -> None:
    made = job(100)
    run = tokenise(made, tmp_path / "run", 7000)
    assert tokenised_by([run], made)
    for update in ({"max_length": 512}, {"overlong": "split"}, {"chat_template": "chatml"}):
        assert tokenised_by([run], made.model_copy(update={"data": made.data.model_copy(update=update)})) is None
    twice = {"train": [made.data.train[0].model_copy(update={"weight": 2.0})]}
    assert tokenised_by([run], made.model_copy(update={"data": made.data.model_copy(update=twice)})) is None
    elsewhere = made.model_copy(update={"model": made.model.model_copy(update={"path": "/other/model"})})
    assert tokenised_by([run], elsewhere) is None
    tokenizer = Path(made.model.path) / "tokenizer.json"
    before = tokenizer.stat()
    os.utime(tokenizer, (before.st_atime + 9999, before.st_mtime + 9999))
    assert tokenised_by([run], made) is None, "another tokenizer since"
    os.utime(tokenizer, (before.st_atime, before.st_mtime))
    with Path(made.data.train[0].path).open("a") as file:
        file.write(json.dumps(SAID) + "\n")
    assert tokenised_by([run], made) is None, "other rows since"
