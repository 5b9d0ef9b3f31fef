"""How long a run needs to save and leave: predicted, measured, and what is refused or said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.cli import run
from launcher.jobfile import SettingError
from launcher.planner.grace_period import (
    SaveTime,
    adjust,
    grace_of,
    measured,
    refuse_no_time,
    site_grace_too_short,
    too_short,
)
from tests.support.documents import typed

BIG = SaveTime(step_seconds=20.4, save_seconds=106, source="847 GB")
SMALL = SaveTime(step_seconds=0.1, save_seconds=0.2, source="1 MB")


def job(grace: Any) -> Any:
    return SimpleNamespace(resources=SimpleNamespace(grace_seconds=grace))


def test_auto_takes_a_step_and_two_saves_rounded_up_and_never_less_than_a_minute() -> None:
    seconds, (decision,) = grace_of(job("auto"), BIG)
    assert (seconds, decision.value) == (240, 240)
    assert decision.reason.startswith("a step of 20.4 s and two saves of 106 s each (847 GB)")
    assert grace_of(job("auto"), SMALL)[0] == 60
    assert grace_of(job("auto"), SaveTime(step_seconds=0, save_seconds=9e9, source=""))[0] == 3600


def test_a_number_that_is_too_small_is_kept_and_said_to_be_so() -> None:
    seconds, (decision,) = grace_of(job(30), BIG)
    assert seconds == 30
    assert decision.reason.startswith("TOO SHORT: a step of 20.4 s") and "take 232 s" in decision.reason
    assert grace_of(job(300), BIG) == (300, [])
    assert not list(too_short(1, SMALL)) and list(too_short(0.4, SMALL))


def test_a_site_that_is_quicker_than_a_save_is_named() -> None:
    (decision,) = site_grace_too_short(120, BIG)
    assert "gives 120 s" in decision.reason and "232 s" in decision.reason
    assert not list(site_grace_too_short(None, BIG)) and not list(site_grace_too_short(240, BIG))


@pytest.mark.parametrize(("walltime", "refused"), [(135, True), (136, False), (None, False)])
def test_a_walltime_that_is_all_warning_is_refused(walltime: int | None, refused: bool) -> None:
    launch = {"backend": "slurm", "grace_seconds": 60, "walltime_seconds": walltime}
    if not refused:
        refuse_no_time(launch)
        return
    with pytest.raises(SettingError, match=r"SLURM warns 75 s before the end .* up to 60 s earlier"):
        refuse_no_time(launch)


def record(step: float, save: float | None) -> dict[str, Any]:
    return {"longest_seconds": {"step": step} | ({} if save is None else {"save": save})}


def test_the_newest_attempts_that_saved_count() -> None:
    assert measured([]) is None
    assert measured(typed([{"attempt": 0}, record(9.0, None)])) is None
    found = measured(
        typed([record(900.0, 900.0), record(1.0, 8.0), record(2.0, 7.0), record(1.5, 3.0), record(50.0, None)])
    )
    assert found is not None
    assert (found.step_seconds, found.save_seconds, found.needed_seconds) == (2.0, 8.0, 18.0)


def make_run(folder: Path, save: float, **launch: Any) -> Path:
    given = {"backend": "slurm", "grace_seconds": 240, "walltime_seconds": 3600, **launch}
    (folder / "plan.json").write_text(json.dumps({"launch": given}))
    (folder / "attempts.jsonl").write_text(json.dumps({"attempt": 0, **record(1.0, save)}) + "\n")
    return folder


def grace_in(run: Path) -> int:
    return json.loads((run / "plan.json").read_text())["launch"]["grace_seconds"]


@pytest.mark.parametrize(("save", "grace"), [(3.0, 60), (200.0, 410)])
def test_a_run_that_goes_on_follows_what_was_measured(tmp_path: Path, save: float, grace: int) -> None:
    run = make_run(tmp_path, save, grace_is_auto=True)
    (decision,) = adjust(run)
    assert (decision.value, grace_in(run)) == (grace, grace)
    assert decision.reason.startswith("was 240; a step of 1 s and two saves of ")
    assert adjust(run) == []


def test_a_number_of_the_users_is_judged_and_kept(tmp_path: Path) -> None:
    (decision,) = adjust(make_run(tmp_path, 200.0))
    assert "TOO SHORT" in decision.reason and grace_in(tmp_path) == 240


def test_measured_saves_that_leave_no_time_to_train_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="leaves no time to train"):
        adjust(make_run(tmp_path, 200.0, grace_is_auto=True, walltime_seconds=480))
    assert grace_in(tmp_path) == 240


SITE = "{backend: slurm, partition: p, gpu_request: none, preemption: {grace_seconds: 0}}"
SHORT_JOB = """\
name: short
model: {path: ./model}
data: {train: [{path: ./train.jsonl}]}
resources:
  gpu: none
  cpu_ranks: 1
  nodes: 1
  grace_seconds: GRACE
  walltime: 2m
cluster: {profile: ./site.yaml}
"""


def test_a_plan_is_refused_at_its_walltimes_line(
    job_folder: Path, write_job, capsys: pytest.CaptureFixture[str]
) -> None:
    (job_folder / "site.yaml").write_text(SITE)
    assert run(["plan", str(write_job(SHORT_JOB.replace("GRACE", "auto")))]) == 2
    said = capsys.readouterr().err
    assert f"{job_folder}/job.yaml:9" in said or "9: resources.walltime" in said
    assert "SLURM warns 75 s before the end (resources.grace_seconds is 60), and up to 60 s earlier" in said
    assert run(["plan", "--json", str(write_job(SHORT_JOB.replace("GRACE", "20")))]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["launch"]["grace_seconds"], plan["launch"]["grace_is_auto"]) == (20, False)
    (hasty,) = [one for one in plan["decisions"] if one["setting"] == "preemption"]
    assert hasty["reason"].startswith("the site gives 0 s")
