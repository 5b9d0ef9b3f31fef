"""A run that goes on with another plan: what may change, what may not, and that nothing is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher_samples import GOOD_JOB

from launcher.cli import run
from launcher.errors import JobError
from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from launcher.replan.plan_diff import compare
from launcher.replan.revise import lengthened, next_number, replanned
from launcher.runs.directory import new_run_dir, write_run
from launcher.site.hardware import Machine

ENDS = ("training.max_steps", "training.num_train_epochs")
TRAINING = "training: {tokens_per_step: 8192"


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch, cpu_machine: Machine) -> None:
    monkeypatch.setattr("launcher.replan.revise.this_machine", lambda: cpu_machine)


@pytest.fixture
def finished(write_job: Callable[..., Path], cpu_machine: Machine, tmp_path: Path) -> Path:
    """A run of 60 steps, finished, with its last two checkpoints."""
    job = write_job(GOOD_JOB, TRAINING, TRAINING + ", max_steps: 60")
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    write_run(run_dir, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())
    for step in (45, 60):
        (run_dir / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (run_dir / "progress.json").write_text(json.dumps({"state": "finished", "step": 60, "epoch": 3.5}))
    (run_dir / "attempts.jsonl").write_text(json.dumps({"attempt": 0, "outcome": "finished"}) + "\n")
    return run_dir


@pytest.fixture
def changed(write_job: Callable[..., Path]) -> Callable[..., Path]:
    """The run's job file with one more place changed."""

    def write(old: str = "", new: str = "") -> Path:
        text = GOOD_JOB.replace(TRAINING, TRAINING + ", max_steps: 60")
        assert old in text
        return write_job(text, old, new)

    return write


def kinds(run_dir: Path, job: Path) -> dict[str, str]:
    return {change.setting: change.kind for change in replanned(run_dir, job).changes}


def plan_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "plan.json").read_text())


# What is changed in the job file, and what that makes of the settings of the plan.
CASES = {
    "more steps": ("max_steps: 60", "max_steps: 90", {"training.max_steps": "free"}),
    "epochs": ("max_steps: 60", "num_train_epochs: 5", dict.fromkeys(ENDS, "free")),
    "checkpoints": ("training:", "checkpoint: {keep: 9}\ntraining:", {"checkpoint.keep": "free"}),
    "micro-batch": ("cpu_ranks: 2", "cpu_ranks: 2, micro_batch: 2", None),
    "hang": ("cpu_ranks: 2", "cpu_ranks: 2, hang_minutes: 5", {"launch.hang_seconds": "free"}),
    "logits": ("training:", "loss: {chunk_tokens: 64}\ntraining:", {"loss.chunk_tokens": "free"}),
    "attention": ("path: model}", "path: model, attention: sdpa}", {"model.attention": "free"}),
    "revision": ("path: model}", "path: model, revision: abc}", {"model.revision": "free"}),
    "kernels": ("max_steps: 60", "max_steps: 60, full_determinism: true", {"training.full_determinism": "free"}),
    "type": ("path: model}", "path: model, dtype: bfloat16}", {"model.dtype": "refused"}),
    "rate": ("max_steps: 60", "max_steps: 60, learning_rate: 0.1", {"training.learning_rate": "curve"}),
    "decay": ("max_steps: 60", "max_steps: 60, weight_decay: 0.1", {"training.weight_decay": "curve"}),
    "length": ("max_length: 512", "max_length: 256", {"data.max_length": "refused"}),
    "seed": ("max_steps: 60", "max_steps: 60, seed: 1", {"training.seed": "refused"}),
    "smoothing": ("training:", "loss: {label_smoothing: 0.1}\ntraining:", {"loss.label_smoothing": "refused"}),
    "split": ("max_length", "eval: {split: 0.1}\n  max_length", {"data.eval.split": "refused"}),
    "step": ("8192", "4096", {"training.tokens_per_step": "refused", "execution.packs_per_step": "refused"}),
    "method": ("training:", "method: {kind: lora}\ntraining:", {"method.kind": "refused"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_may_change(finished: Path, changed: Callable[..., Path], case: str) -> None:
    old, new, expected = CASES[case]
    found = kinds(finished, changed(old, new))
    if expected is None:
        assert set(found.values()) == {"free"}
        assert "execution.micro_batch" in found
    else:
        assert expected.items() <= found.items()
        assert ("refused" in found.values()) is ("refused" in expected.values())


def test_the_same_job_changes_nothing(finished: Path, changed: Callable[..., Path]) -> None:
    assert kinds(finished, changed()) == {}


def test_a_run_that_has_saved_nothing_may_change_altogether(finished: Path, changed: Callable[..., Path]) -> None:
    for folder in (finished / "checkpoints").iterdir():
        folder.rmdir()
    assert kinds(finished, changed("max_length: 512", "max_length: 256"))["data.max_length"] == "free"


def test_automatic_values_stay_where_they_must(write_job, cpu_machine: Machine, tmp_path: Path) -> None:
    text = GOOD_JOB.replace("training: {tokens_per_step: 8192}\n", "")
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    job = write_job(text.replace("cpu_ranks: 2", "cpu_ranks: 8"))
    write_run(run_dir, b"", make_plan(load_job(job).job, Machine(num_cores=8, memory_bytes=2**40)).document())
    (run_dir / "checkpoints" / "step-00000003").mkdir(parents=True)
    before = plan_of(run_dir)["trainer"]["execution"]["packs_per_step"]
    revision = replanned(run_dir, write_job(text.replace("cpu_ranks: 2", "cpu_ranks: 2")))
    after = revision.plan["trainer"]["execution"]
    assert (after["world_size"], after["packs_per_step"]) == (2, before)
    assert not revision.refused
    assert {"setting": "training.tokens_per_step", "value": before * 512, "reason": "as the run has it"} in (
        revision.plan["decisions"]
    )
    with pytest.raises(JobError, match=rf"a step of this run is {before} packs") as caught:
        replanned(run_dir, write_job(text.replace("cpu_ranks: 2", "cpu_ranks: 3")))
    assert caught.value.remedy == f"Take a number of ranks that divides {before}."


@pytest.mark.parametrize("packing", [True, False])
def test_a_run_keeps_its_packing_whatever_auto_would_be_now(
    write_job, cpu_machine: Machine, tmp_path: Path, packing: bool
) -> None:
    """Also one from before `packing: auto`, and one whose data has been counted since."""
    job = write_job(GOOD_JOB.replace("training: {tokens_per_step: 8192}\n", ""))
    rows = [{"messages": [{"role": "user", "content": "a" * 60}, {"role": "assistant", "content": "b"}]}] * 30
    (job.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not make_plan(load_job(job).job, cpu_machine).trainer.data.packing, (
        "30 short rows are too few to share packs"
    )
    loaded = load_job(job).job
    asked = loaded.model_copy(update={"data": loaded.data.model_copy(update={"packing": packing})})
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    write_run(run_dir, b"", make_plan(asked, cpu_machine).document())
    (run_dir / "checkpoints" / "step-00000003").mkdir(parents=True)
    revision = replanned(run_dir, job)
    assert revision.plan["trainer"]["data"]["packing"] is packing
    assert not revision.refused


def test_a_stretched_schedule_says_so(finished: Path) -> None:
    (cosine,) = lengthened(finished, max_steps=90).changes
    assert "the cosine schedule spans the new length, so the rate changes from step 60 on" in cosine.effect
    old, new = plan_of(finished), plan_of(finished)
    for plan in (old, new):
        plan["trainer"]["training"]["lr_scheduler_type"] = "constant"
    new["trainer"]["training"]["max_steps"] = 90
    (constant,) = compare(old, new, 60)
    assert constant.effect == "how far the run goes"


@pytest.mark.parametrize(
    ("end", "goes_on"),
    [({"max_steps": 61}, True), ({"max_steps": 60}, False), ({"epochs": 3.5}, False), ({"epochs": 4}, True)],
)
def test_an_end_that_lies_ahead(finished: Path, end: dict[str, Any], goes_on: bool) -> None:
    assert lengthened(finished, **end).has_steps_left() is goes_on


def test_a_new_end_before_the_warm_up_does_is_refused(finished: Path) -> None:
    plan = plan_of(finished)
    plan["trainer"]["training"]["warmup_steps"] = 80
    (finished / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(JobError, match="warm-up is longer than the run, which has 70 steps"):
        lengthened(finished, max_steps=70)
    plan["trainer"]["training"]["lr_scheduler_kwargs"] = {"older": "than the rule"}
    (finished / "plan.json").write_text(json.dumps(plan))
    assert lengthened(finished, max_steps=70).has_steps_left()


def test_old_plans_and_jobs_are_kept(finished: Path, changed: Callable[..., Path]) -> None:
    first_plan, first_job = (finished / "plan.json").read_bytes(), (finished / "job.yaml").read_bytes()
    longer = changed("max_steps: 60", "max_steps: 90")
    replanned(finished, longer).write("first")
    second_plan = (finished / "plan.json").read_bytes()
    lengthened(finished, max_steps=120).write("second")
    assert (finished / "plan-000.json").read_bytes() == first_plan
    assert (finished / "job-000.yaml").read_bytes() == first_job
    assert (finished / "plan-001.json").read_bytes() == second_plan
    assert (finished / "job.yaml").read_bytes() == longer.read_bytes()
    assert next_number(finished) == 2
    plan = plan_of(finished)
    assert plan["trainer"]["training"]["max_steps"] == plan["prediction"]["steps"] == 120
    assert [(entry["by"], entry["step"]) for entry in plan["changes"]] == [("first", 60), ("second", 60)]
    assert plan["changes"][1]["settings"][0]["was"] == 90


def test_refusing_shows_the_difference_and_writes_nothing(finished: Path, changed, capsys) -> None:
    before = sorted((path, path.read_bytes()) for path in finished.rglob("*") if path.is_file())
    job = changed("max_length: 512", "max_length: 256")
    assert run(["resume", str(finished), "--job", str(job)]) == 2
    shown = capsys.readouterr()
    assert "must not change: the run has trained on rows" in " ".join(shown.out.split())
    assert "cannot go on with another data.max_length" in shown.err
    assert sorted((path, path.read_bytes()) for path in finished.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--max-steps N, --epochs X, or --job JOB"),
        (["--max-steps", "60"], "is finished at step 60, epoch 3.50"),
        (["--max-steps", "50"], "is at step 60, behind an end at step 50"),
        (["--max-steps", "90", "--epochs", "9"], "--max-steps and --epochs both say where the run ends"),
    ],
)
def test_a_finished_run_needs_a_later_end(finished: Path, capsys, options: list[str], says: str) -> None:
    assert run(["resume", str(finished), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (finished / "plan-000.json").exists()


def test_dry_run_of_a_longer_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["resume", str(finished), "--max-steps", "90", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["from_step"] == 60
    assert [(c["setting"], c["was"], c["now"]) for c in told["changes"]] == [("training.max_steps", 60, 90)]
    assert not (finished / "plan-000.json").exists()


def test_a_run_keeps_its_name(finished: Path, changed: Callable[..., Path]) -> None:
    assert replanned(finished, changed("name: quick", "name: other")).plan["trainer"]["name"] == "quick"
