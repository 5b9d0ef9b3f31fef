"""Steps of a run before its data is tokenised: as asked, estimated from text, or not known, and which of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.decisions import Basics
from launcher.jobfile import load_job
from launcher.length import ESTIMATED, EXACT, FILL, steps_of

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
