"""Profiles as files: where they are found, and what is said about wrong ones, with the line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import JobError
from launcher.jobfile import JobFileError, load_job
from launcher.site.profile import find_profile, known_profiles, load_profile, profile_of

ROOT = Path(__file__).parents[4]
SHIPPED = sorted(path.stem for path in (ROOT / "slurm" / "profiles").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an empty folder of profiles, which is given back."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TUNEYARD_PROFILES", str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_can_be_used(name: str, folder: Path) -> None:
    profile = load_profile(name)
    assert profile.name == name and profile.description and profile.site()["partition"]


def test_what_is_shipped() -> None:
    assert {"university", "a100", "h100-preemptible", "no-requeue", "apptainer", "pyxis", "testbed"} == set(SHIPPED)


def test_the_users_own_comes_first(folder: Path) -> None:
    (folder / "university.yaml").write_text("partition: theirs\n")
    assert load_profile("university").partition == "theirs"
    mine = folder.parent / "config" / "tuneyard" / "profiles"
    mine.mkdir(parents=True)
    (mine / "university.yaml").write_text("partition: mine\n")
    assert load_profile("university").partition == "mine"
    assert known_profiles()["university"] == mine / "university.yaml"


def test_a_path_is_relative_to_the_job_file(folder: Path) -> None:
    (folder / "here.yaml").write_text("partition: p\n")
    assert load_profile("./here.yaml", beside=folder).partition == "p"
    assert load_profile(str(folder / "here.yaml")).partition == "p"


def test_an_unknown_name_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(JobError, match="Did you mean university"):
        find_profile("universty")
    with pytest.raises(JobError, match=r"There is: local, .*pyxis"):
        find_profile("zzz")
    with pytest.raises(JobError, match="no profile in"):
        find_profile("./zzz.yaml")


def test_every_problem_has_its_line(folder: Path) -> None:
    (folder / "bad.yaml").write_text("partition: 7\nacount: x\nsetup:\n  venw: /v\nmax_walltime: 1 day\n")
    with pytest.raises(JobFileError) as refused:
        load_profile("bad")
    lines = str(refused.value).splitlines()
    assert [line.partition("bad.yaml:")[2].split(":")[0] for line in lines] == ["1", "2", "4", "5"]
    assert "Did you mean account?" in lines[1] and "Did you mean venv?" in lines[2] and "4h" in lines[3]


def test_values_are_checked_with_their_lines_too(folder: Path) -> None:
    text = 'partition: gpu\ndirectives:\n  output: x\n  nice: "1\\n#SBATCH --uid=0"\nenvironment:\n  HF_TOKEN: abc\n'
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(JobFileError) as refused:
        load_profile("bad")
    lines = str(refused.value).splitlines()
    assert [line.partition("bad.yaml:")[2].split(":")[0] for line in lines] == ["3", "4", "6"]
    assert "\\n#SBATCH" in lines[1]


def test_a_job_files_profile(folder: Path, write_job: Callable[..., Path]) -> None:
    (folder / "ours.yaml").write_text("partition: p\n")
    job = load_job(write_job(old="resources:", new="cluster: {profile: ours}\nresources:"))
    profile = profile_of(job)
    assert profile is not None and profile.partition == "p"
    assert profile_of(load_job(write_job())) is None
    missing = load_job(write_job(old="resources:", new="cluster: {profile: nowhere}\nresources:"))
    with pytest.raises(JobFileError, match=r"job\.yaml:\d+: cluster\.profile: no profile is called 'nowhere'"):
        profile_of(missing)
