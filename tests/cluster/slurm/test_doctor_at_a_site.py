"""The doctor asks a real SLURM: a draft of the site fits it, and what is wrong is found."""

import json
from pathlib import Path

import pytest

from cluster.slurm.scheduler.commands import Scheduler
from launcher.cli import run
from slurm.testbed import Testbed


def report(capsys: pytest.CaptureFixture[str], profile: Path | str) -> tuple[int, dict[str, dict[str, str]]]:
    code = run(["doctor", "--profile", str(profile), "--json"])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_a_draft_fits(slurm_testbed: Testbed, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--draft"]) == 0
    (tmp_path / "draft.yaml").write_text(capsys.readouterr().out)
    code, checks = report(capsys, tmp_path / "draft.yaml")
    assert code == 0
    assert checks["gpus"]["words"] == "a node has 8 x h100"
    assert checks["requeue hold"]["words"].startswith("a requeued job waits 8 s")
    assert "to start at" in checks["sbatch --test-only"]["words"]
    assert slurm_testbed.run("squeue", "--noheader", "--states=all", "--name=none") == ""


def test_the_shipped_profile_of_the_testbed_fits(slurm_testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = report(capsys, "testbed")
    assert code == 0 and checks["preemption"]["words"] == "GraceTime is 20 s"


def test_a_draft_of_another_partition(slurm_testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--draft", "--partition", "norequeue"]) == 0
    assert "requeue: false" in capsys.readouterr().out
    assert run(["doctor", "--draft", "--partition", "nope"]) == 2
    assert "low, high, short, norequeue" in capsys.readouterr().err


def test_what_does_not_fit_is_found(slurm_testbed: Testbed, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("partition: short\nmax_walltime: 4h\ngpu_types: {a: a100}\nrun_root: /tmp\nconstraint: volta\n")
    code, checks = report(capsys, profile)
    assert code == 2
    failed = {name for name, check in checks.items() if check["verdict"] == "fail"}
    assert failed == {"walltime", "gpus", "constraint", "run root", "sbatch --test-only"}
    assert "at most 2 min" in checks["walltime"]["remedy"]


def test_an_absent_controller_is_a_schedulers_error(
    slurm_testbed: Testbed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.doctor.slurm.Scheduler", lambda: Scheduler(retry_seconds=()))
    slurm_testbed.stop_controller()
    try:
        assert run(["doctor", "--profile", "testbed"]) == 4
        assert "Unable to contact slurm controller" in capsys.readouterr().err
    finally:
        slurm_testbed.start_controller()
