"""Where a run goes: what is said on the command line, else what the site profile says; and how it is found there."""

from __future__ import annotations

from pathlib import Path

import pytest
from launcher_samples import GOOD_JOB

from launcher.cli import run
from launcher.runs.directory import find_run, link_run, list_runs


def planned(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    return folder


def test_a_run_elsewhere_is_found_by_its_name(tmp_path: Path) -> None:
    here, there = tmp_path / "runs", planned(tmp_path / "shared" / "job-20261121-100000-abcd")
    link_run(here, there)
    assert [path.name for path in list_runs(here)] == [there.name]
    assert find_run("last", here).resolve() == there
    link_run(there.parent, there)
    assert not there.is_symlink(), "a run that lies there already needs no link"


def test_a_link_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    link_run(tmp_path / "runs", planned(tmp_path / "shared" / "job-20261121-100000-abcd"))


@pytest.mark.parametrize("said", [[], ["--runs", "mine"]])
def test_the_profile_says_where_unless_somebody_does(
    write_job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    shared = tmp_path / "shared"
    profile = tmp_path / "site.yaml"
    profile.write_text(f"backend: slurm\npartition: low\nrun_root: {shared}\n")
    job = write_job(GOOD_JOB + f"cluster: {{profile: {profile}}}\n")
    monkeypatch.chdir(tmp_path)
    assert run(["submit", str(job), "--dry-run", *said]) == 0
    place = tmp_path / "mine" if said else shared
    assert f"{place}/quick-" in capsys.readouterr().out
