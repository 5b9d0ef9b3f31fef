"""Steps of a run before its data is tokenised: as asked, estimated from text, or not known, and which of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.dataset.size import PACK_FILL
from launcher.dataset.text_tokens import estimate_size
from launcher.dataset.token_counts import find_counted_size
from launcher.jobfile import SettingError, load_job
from launcher.planner.plan import make_plan
from launcher.planner.settings.defaults import StepLayout
from launcher.planner.settings.num_steps import EXACT, step_warnings, steps_of

PLAIN = StepLayout(
    device="cpu", dtype="float32", attention="padded", world_size=2, packs_per_step=8, learning_rate=1e-3
)
VOCABULARY = 131_072
SAID = {"messages": [{"role": "user", "content": "x" * 450}, {"role": "assistant", "content": "y" * 450}]}
TOKENS = 900 / 4.5 + 2 * 6
"""Of the row above: characters by 4.5, and six for each turn. One fits into a pack of 256."""


def counted(job, step_layout: StepLayout = PLAIN):
    """Steps of a job by its text."""
    return steps_of(job, replace(step_layout, data=estimate_size(job, VOCABULARY)))


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
    found = counted(job(10, "max_steps: 7"))
    assert (found.number, found.source, found.is_exact, found.per_epoch) == (7, EXACT, True, 2)


def test_steps_follow_from_the_text(job) -> None:
    found = counted(job(1000))
    assert "estimated" in found.source and not found.is_exact
    assert (found.number, found.per_epoch, found.packs, found.warmup) == (125, 125, 1000, 4)
    assert counted(job(1000, "num_train_epochs: 2.5")).number == 125 * 2 + 63
    assert counted(job(1000, data="  eval: {split: 0.5}")).number == 63


def test_a_large_file_is_read_in_part_and_counted_whole(job) -> None:
    assert counted(job(9000)).number == pytest.approx(9000 / 8, rel=0.01)


def test_rows_that_are_too_long_count_as_they_are_treated(job) -> None:
    longer = job(1000, data="  overlong: drop")
    changed = longer.model_copy(update={"data": longer.data.model_copy(update={"max_length": 128})})
    assert counted(changed).number is None, "all are dropped"
    cut = changed.model_copy(update={"data": changed.data.model_copy(update={"overlong": "truncate"})})
    assert counted(cut).number == 1000 / 8
    split = changed.model_copy(update={"data": changed.data.model_copy(update={"overlong": "split"})})
    assert counted(split).number == pytest.approx(2000 / 8, abs=1), "128 and 84 tokens do not share a pack of 128"


def test_data_elsewhere_is_not_guessed(job) -> None:
    made = job(10)
    for path in ("some/dataset-on-the-hub", "/nowhere/rows.jsonl"):
        source = made.data.train[0].model_copy(update={"path": path})
        there = made.model_copy(update={"data": made.data.model_copy(update={"train": [source]})})
        assert counted(there).number is None
        assert path in counted(there).source


def test_a_run_of_few_steps_is_warned_of(job) -> None:
    assert not list(step_warnings(job(1000), replace(PLAIN, data=estimate_size(job(1000), VOCABULARY))))
    made = job(5)
    larger, few = step_warnings(made, replace(PLAIN, data=estimate_size(made, VOCABULARY)))
    assert "larger than an epoch" in larger
    assert "num_train_epochs: 5" in few


def test_a_schedule_that_no_estimate_can_save_is_refused(job, cpu_machine) -> None:
    """By the text some 60 steps: 150 of warm-up may still fit into what the tokenizer counts, 1,000 cannot."""
    doubtful = make_plan(job(60, "warmup_steps: 150", "  overlong: truncate"), cpu_machine)
    assert any("warm-up is longer" in words for words in doubtful.warnings)
    with pytest.raises(SettingError, match="warm-up is longer"):
        make_plan(job(60, "warmup_steps: 1000", "  overlong: truncate"), cpu_machine)


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
    known = find_counted_size(runs, made)
    assert known is not None
    assert (known.tokens, known.source) == (200_000, "counted when run-2 tokenised the same data")
    found = steps_of(made, replace(PLAIN, data=known))
    assert (found.number, found.source) == (2 * math.ceil(200_000 / (8 * 256 * PACK_FILL)), known.source)
    exact = made.model_copy(update={"training": made.training.model_copy(update={"max_steps": 3})})
    assert steps_of(exact, replace(PLAIN, data=known)).source == EXACT


def test_lengths_that_a_run_has_counted_are_packed(job, tmp_path: Path) -> None:
    made = job(1000)
    run = tokenise(made, tmp_path / "run", 0)
    (run / "data" / "lengths.json").write_text(json.dumps({"sources": [[[100, 30], [200, 10]]]}))
    known = find_counted_size([run], made)
    assert known is not None and known.is_exact
    assert (known.rows, known.tokens, known.packs(256), known.packs(1024)) == (40, 5000, 25, 5)
    assert known.packs(256, packing=False) == 40


def test_what_was_tokenised_otherwise_is_not_taken(job, tmp_path: Path) -> None:
    made = job(100)
    run = tokenise(made, tmp_path / "run", 7000)
    assert find_counted_size([run], made)
    for update in ({"max_length": 512}, {"overlong": "split"}, {"chat_template": "chatml"}):
        assert find_counted_size([run], made.model_copy(update={"data": made.data.model_copy(update=update)})) is None
    twice = {"train": [made.data.train[0].model_copy(update={"weight": 2.0})]}
    assert find_counted_size([run], made.model_copy(update={"data": made.data.model_copy(update=twice)})) is None
    elsewhere = made.model_copy(update={"model": made.model.model_copy(update={"path": "/other/model"})})
    assert find_counted_size([run], elsewhere) is None
    tokenizer = Path(made.model.path) / "tokenizer.json"
    before = tokenizer.stat()
    os.utime(tokenizer, (before.st_atime + 9999, before.st_mtime + 9999))
    assert find_counted_size([run], made) is None, "another tokenizer since"
    os.utime(tokenizer, (before.st_atime, before.st_mtime))
    with Path(made.data.train[0].path).open("a") as file:
        file.write(json.dumps(SAID) + "\n")
    assert find_counted_size([run], made) is None, "other rows since"
