"""Places that a run needs are looked at before anything is queued: its folder, and the hub's files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher_samples import GOOD_JOB

from launcher.cli import run
from launcher.doctor.run_folder import require_folder
from launcher.errors import MachineError
from launcher.jobfile import SettingError
from launcher.model.files import describe_missing_files, hub_cache, offline_switch
from launcher.model.hub import require_hub_files

COMMIT = "c" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of an offline machine, without anything in it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hf" / "hub"


def put_model(cache: Path, name: str = "org/tiny", **files: str) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for file, text in {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "", **files}.items():
        (folder / file).write_text(text)
    return folder


def plan(model: str = "org/tiny", train: str = "/rows.jsonl", **launch: Any) -> dict[str, Any]:
    trainer = {"model": {"path": model, "revision": None}, "data": {"train": [{"path": train}]}}
    return {"trainer": trainer, "launch": launch, "ask": False}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "HF_HOME": "~/hf"}, "/h/hf/hub"),
        ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, "/new"),
    ],
)
def test_the_hubs_cache_is_found_as_its_library_finds_it(environment: dict[str, str], expected: str) -> None:
    assert hub_cache(environment) == Path(expected)


@pytest.mark.parametrize(
    ("environment", "switch"),
    [
        ({}, ""),
        ({"HF_HUB_OFFLINE": "0"}, ""),
        ({"HF_HUB_OFFLINE": "true"}, "HF_HUB_OFFLINE"),
        ({"TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE"),
    ],
)
def test_offline_is_what_the_library_takes_for_it(environment: dict[str, str], switch: str) -> None:
    assert offline_switch(environment) == switch


def test_a_model_that_is_whole_lacks_nothing(cache: Path) -> None:
    folder = put_model(cache)
    assert describe_missing_files("org/tiny", None, cache) == describe_missing_files("org/tiny", COMMIT, cache) == ""
    assert describe_missing_files("org/tiny", "other", cache) == f"{cache} does not hold it at revision other"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/interrupted")
    assert describe_missing_files("org/tiny", None, cache) == f"{folder} lacks its weights"


def test_every_file_of_split_weights_counts(cache: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    folder = put_model(cache, **{"model.safetensors.index.json": json.dumps(index), "model-1.safetensors": ""})
    assert describe_missing_files("org/tiny", None, cache) == f"{folder} lacks 1 of 2 files of its weights"
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors.index.json").write_text("cut o")
    lacks = "its tokenizer and a readable model.safetensors.index.json"
    assert describe_missing_files("org/tiny", None, cache) == f"{folder} lacks {lacks}"


SITE = {"environment": {"HF_HUB_OFFLINE": "1"}, "forward": ["HF_HOME"]}


def test_a_hub_model_that_its_run_cannot_have_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for launch in ({}, {"slurm": SITE}):
        with pytest.raises(SettingError, match="hub does not hold it, and HF_HUB_OFFLINE=1") as refused:
            require_hub_files(**plan(**launch))
        assert refused.value.setting == "model.path" and "hf download org/tiny" in refused.value.remedy
    put_model(cache)
    require_hub_files(**plan())
    require_hub_files(**plan(slurm=SITE))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    require_hub_files(**plan("org/other"))
    with pytest.raises(SettingError):
        require_hub_files(**plan("org/other", slurm=SITE))
    with pytest.raises(SettingError):  # the site's jobs do not get HF_HOME
        require_hub_files(**plan(slurm={"environment": SITE["environment"]}))


def test_what_cannot_be_seen_from_here_is_not_refused(cache: Path) -> None:
    require_hub_files(**plan(slurm={**SITE, "container": "pyxis"}))
    require_hub_files(**plan(slurm={**SITE, "setup": ["export HF_HOME=/site"]}))
    require_hub_files(**plan(str(cache.parent)))
    require_hub_files(**plan(kubernetes={"environment": {"HF_HUB_OFFLINE": "1"}, "runs": {"claim": "runs"}}))


def test_pods_see_the_cache_on_their_volumes(cache: Path, tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/models/hf"}
    with pytest.raises(SettingError, match="lies on no volume"):
        require_hub_files(**plan(kubernetes={"environment": environment}))
    mounted = {"claim": "m", "path": "/models", "local": str(tmp_path)}
    with pytest.raises(SettingError, match="does not hold it"):
        require_hub_files(**plan(kubernetes={"environment": environment, "volumes": [mounted]}))
    put_model(tmp_path / "hf" / "hub")
    require_hub_files(**plan(kubernetes={"environment": environment, "volumes": [mounted]}))


def test_a_hub_data_set_is_looked_for_too(cache: Path) -> None:
    put_model(cache)
    with pytest.raises(SettingError, match="does not hold this data set") as refused:
        require_hub_files(**plan(train="org/rows"))
    assert refused.value.setting == "data.train.0.path"
    (cache / "datasets--org--rows").mkdir()
    require_hub_files(**plan(train="org/rows"))


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        ({"health": {"free_disk_bytes": 2**60}}, "the run's checkpoints take"),
        ({"health": {"free_disk_bytes": 2**60}, "kubernetes": {"runs": {"local": "/mnt"}}}, "checkpoints take"),
        ({"health": {"free_disk_bytes": 2**60, "skip": ["disk"]}}, ""),
        ({"health": {"free_disk_bytes": 2**60}, "kubernetes": {"runs": {"claim": "runs"}}}, ""),
        ({"health": {}}, ""),
    ],
)
def test_checkpoints_must_have_room(tmp_path: Path, launch: dict[str, Any], says: str) -> None:
    if not says:
        return require_folder(launch, tmp_path / "new" / "runs")
    with pytest.raises(MachineError, match=says):
        require_folder(launch, tmp_path / "new" / "runs")
    return None


def test_a_job_is_refused_with_its_line_before_anything_is_made(
    write_job: Callable[..., Path], cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = write_job(GOOD_JOB, "path: model}", "path: Qwen/Qwen2.5-0.5B-Instruct}")
    line = 1 + job.read_text().splitlines().index(next(one for one in job.read_text().splitlines() if "Qwen/" in one))
    assert run(["submit", str(job), "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert f"{job}:{line}: model.path" in said and "HF_HUB_OFFLINE" in said and "hf download" in said
    assert not (tmp_path / "runs").exists()
    assert run(["plan", str(job)]) == 0
    assert "It cannot be submitted" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused(
    write_job: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["submit", str(write_job(GOOD_JOB)), "--runs", str(tmp_path / "file" / "runs")]) == 3
    said = capsys.readouterr().err
    assert "cannot be written" in said and "--runs" in said
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert run(["submit", str(write_job(GOOD_JOB)), "--runs", str(tmp_path / "runs")]) == 3
