"""Drills: the plan of a rehearsal, and what passes and what does not, judged on made-up evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher_samples import write_tokenizer

from launcher.cli import run
from launcher.drill.faults import FAULTS, InjectedFault, corrupt
from launcher.drill.run import DrillResult, drill_plan
from launcher.drill.target import DrillTarget
from launcher.drill.verdict import Verdict, judge
from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from rundir.attempts import AttemptRecord
from rundir.metrics import Metrics
from rundir.outcome import Outcome
from rundir.plan import Plan
from rundir.progress import Progress
from trainer.config import TrainerConfig

STEPS = 12


def line(step: int, attempt: int, loss: float | None = None) -> Metrics:
    at = 1000.0 + step + (100 if attempt else 0)
    return Metrics(step=step, attempt=attempt, loss=2 - step / 20 if loss is None else loss, time=at)


def record(attempt: int, outcome: str, ended: float) -> AttemptRecord:
    return AttemptRecord(number=attempt, outcome=Outcome(outcome), cause="rank 1", ended=ended)


GOOD = DrillResult(
    injected=InjectedFault(time=1005.0, step=5, hit="SIGKILL to the last rank (process 7)"),
    expected="step-00000003",
    ever={f"step-{step:08d}" for step in (3, 6, 9, 12)},
    left={f"step-{step:08d}" for step in (6, 9, 12)},
    progress=Progress.from_json({"state": "finished", "step": STEPS, "resumed_from": 3, "exactness": "bit-exact"}),
    attempts=[record(0, "crashed", 1007.5), record(1, "finished", 1113.0)],
    metrics=[*(line(step, 0) for step in range(1, 6)), *(line(step, 1) for step in range(4, 13))],
    set_aside=set(),
)


def verdict(**changes: Any) -> Verdict:
    return judge(FAULTS["kill"], dataclasses.replace(GOOD, **changes), STEPS)


def test_what_a_fault_costs() -> None:
    found = verdict()
    assert (found.passed, found.steps_lost, found.steps_compared) == (True, 2, 2)
    assert (found.detect_seconds, found.restart_seconds, found.back_seconds) == (2.5, 96.5, 100.0)
    assert found.reason == "went on from step 3; 2 steps trained twice: the same loss (bit-exact)"


def test_a_run_that_was_saved_first_loses_nothing() -> None:
    again = [*(line(step, 0) for step in range(1, 6)), *(line(step, 1) for step in range(6, 13))]
    found = verdict(metrics=again, progress=GOOD.progress.changed(resumed_step=5), expected="step-00000005")
    assert (found.passed, found.steps_lost, found.steps_compared) == (True, 0, 0)
    assert found.back_seconds == 101.0


def test_a_damaged_checkpoint_that_is_saved_again_is_one_of_those_that_are_kept() -> None:
    """The run was stopped at a step at which it saves anyway; step 3 is then pruned as it should be."""
    injected = dataclasses.replace(GOOD.injected, damaged="step-00000006")
    assert verdict(injected=injected, set_aside={"step-00000006"}).passed


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "other outcome": (
        {"attempts": [record(0, "hang", 1007.5), GOOD.attempts[1]]},
        "the fault was called hang, not crashed: rank 1",
    ),
    "not finished": (
        {"attempts": [GOOD.attempts[0], record(1, "crashed", 1100.0)], "progress": GOOD.progress.changed(step=8)},
        "the run ended as crashed at step 8 of 12 (rank 1)",
    ),
    "one more crash": (
        {"attempts": [GOOD.attempts[0], record(1, "crashed", 1100.0), record(2, "finished", 1200.0)]},
        "it took 3 attempts: crashed, crashed, finished",
    ),
    "from the beginning": (
        {"progress": GOOD.progress.changed(resumed_step=None)},
        "it went on from step None, not from step 3",
    ),
    "no checkpoint": ({"expected": None}, "there was no good checkpoint to go on from"),
    "lost checkpoint": ({"left": {"step-00000009", "step-00000012"}}, "checkpoints are gone: step-00000006"),
    "other loss": (
        {"metrics": [*GOOD.metrics[:-9], line(4, 1, loss=1.8000001), *GOOD.metrics[-8:]]},
        "step 4 has loss 1.8 before and 1.8000001 after",
    ),
    "not set aside": (
        {
            "injected": dataclasses.replace(GOOD.injected, damaged="step-00000006"),
            "ever": GOOD.ever | {"step-00000005"},
        },
        "step-00000006 was damaged, and nobody set it aside",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_does_not_pass(case: str) -> None:
    changes, reason = FAILURES[case]
    found = verdict(**changes)
    assert not found.passed
    assert reason in found.reason


def test_a_hang_without_stacks_does_not_pass() -> None:
    attempts = [record(0, "hang", 1007.5), GOOD.attempts[1]]
    found = judge(FAULTS["hang"], dataclasses.replace(GOOD, attempts=attempts), STEPS)
    assert found.reason == "nobody wrote down where the ranks stood"
    assert judge(FAULTS["hang"], dataclasses.replace(GOOD, attempts=attempts, num_stacks=2), STEPS).passed


def test_other_ranks_may_round_differently() -> None:
    order = GOOD.progress.changed(exactness="order-exact")
    near = [*GOOD.metrics[:-9], line(4, 1, loss=1.8001), *GOOD.metrics[-8:]]
    far = [*GOOD.metrics[:-9], line(4, 1, loss=1.81), *GOOD.metrics[-8:]]
    assert verdict(progress=order, metrics=near).passed
    assert not verdict(progress=order, metrics=far).passed


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_the_plan_of_a_rehearsal_is_a_plan(write_job: Callable[..., Path], cpu_machine, fault) -> None:
    text = "resources: {walltime: 4h, restart: false, hang_minutes: null, "
    plan = make_plan(load_job(write_job(old="resources: {", new=text)).job, cpu_machine).as_json()
    short = drill_plan(plan, fault, STEPS, 7.0)
    trainer = TrainerConfig.model_validate(short["trainer"])
    assert trainer.training.max_steps == max(STEPS, fault.least_steps)
    assert (trainer.training.full_determinism, trainer.checkpoint.every_steps) == (True, 3)
    assert (short["launch"]["hang_seconds"], short["launch"]["phases"]) == (7.0, ["prepare", "train"])
    assert "walltime_seconds" not in short["launch"]
    assert Plan.from_json(short).launch.restart.auto
    assert plan["launch"]["hang_seconds"] is None, "the job's own plan stays as it is"


def test_one_bit_is_turned_in_the_newest(tmp_path: Path) -> None:
    for step in (3, 6):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "rank-00000.safetensors").write_bytes(bytes(100))
    assert corrupt(DrillTarget(tmp_path, None)) == "step-00000006"  # type: ignore[arg-type]
    content = {path.parent.name: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert content["step-00000003"] == bytes(100)
    assert sorted(content["step-00000006"]) == [0] * 99 + [1]


def test_faults_have_names_one_can_guess(write_job, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drill", str(write_job()), "--fault", "kil"]) == 2
    assert "preempt" in capsys.readouterr().err


def test_bad_rows_leave_no_drill_behind(write_job, job_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(job_folder / "model")
    (job_folder / "train.jsonl").write_text("{")
    assert run(["drill", str(write_job()), "--runs", str(job_folder / "runs")]) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert list((job_folder / "runs").iterdir()) == []
