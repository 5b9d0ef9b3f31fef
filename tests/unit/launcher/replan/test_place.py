"""Placing a run on a cluster's storage: once, by whoever is first; nothing that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import VERBS, run
from launcher.site.hardware import cores_worth
from rundir.plan import read_plan

PODS = 8


@pytest.fixture
def job(write_job) -> Path:
    return write_job()


def place(run_dir: Path, job: Path, *more: object) -> int:
    base = [] if "--base" in more else ["--base", str(job.parent)]
    return run(["place", str(run_dir), "--job", str(job), *base, *map(str, more)])


def test_pods_that_place_at_once_make_one_run(job: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "quick"
    command = [
        sys.executable,
        "-m",
        "launcher.cli",
        "place",
        str(run_dir),
        "--job",
        str(job),
        "--base",
        str(job.parent),
    ]
    environment = os.environ | {"TUNEYARD_NODES_COUNT": "2"}
    racing = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(PODS)
    ]
    while any(process.poll() is None for process in racing):
        assert not run_dir.exists() or (run_dir / "plan.json").exists(), "it appears as a whole"
    said = [process.communicate()[0] for process in racing]
    assert [process.returncode for process in racing] == [0] * PODS, said
    assert sum(words.startswith("placed") for words in said) == 1
    assert [path.name for path in run_dir.parent.iterdir()] == ["quick"], "nothing is left beside it"
    assert (run_dir / "job.yaml").read_bytes() == job.read_bytes()
    launch = read_plan(run_dir).launch.to_json()
    assert (launch["nodes"], launch["ranks_per_node"], launch["backend"]) == (2, 2, "kubernetes")


def test_another_job_in_its_place_is_refused(job: Path, write_job, tmp_path: Path, capsys) -> None:
    run_dir = tmp_path / "runs" / "quick"
    assert place(run_dir, job) == 0
    before = (run_dir / "plan.json").read_bytes()
    assert place(run_dir, write_job(old="8192", new="4096")) == 2
    assert "holds the run of another job file" in capsys.readouterr().err
    assert (run_dir / "plan.json").read_bytes() == before
    (tmp_path / "runs" / "stray").mkdir()
    assert place(tmp_path / "runs" / "stray", job) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_plan_from_outside_is_taken_when_all_that_it_names_is_here(job: Path, tmp_path: Path, capsys) -> None:
    first, plan = tmp_path / "runs" / "first", tmp_path / "plan.json"
    assert place(first, job) == 0
    made = read_plan(first).to_json()
    plan.write_text(json.dumps(made))
    assert place(tmp_path / "runs" / "second", job, "--plan", plan) == 0
    assert read_plan(tmp_path / "runs" / "second").to_json() == made
    assert place(tmp_path / "runs" / "third", job, "--plan", plan, "--nodes", 3) == 2
    assert "the plan needs 1 node, and the run has 3 pods" in capsys.readouterr().err
    made["trainer"]["data"]["train"][0]["path"] = "/data/rows.jsonl"
    plan.write_text(json.dumps(made))
    assert place(tmp_path / "runs" / "third", job, "--plan", plan) == 2
    said = capsys.readouterr().err
    assert "data.train[0].path: /data/rows.jsonl is not in this pod" in said
    assert "mount the volume" in said
    assert not (tmp_path / "runs" / "third").exists()


@pytest.mark.parametrize(
    ("new", "more", "words"),
    [
        ("nodes: 4, cpu_ranks: 2", ("--nodes", 2), "resources.nodes asks for 4, and the run has 2 pods"),
        ("cpu_ranks: 2", ("--gpus", 2000), "each pod asks for 2,000 GPUs, and this container sees "),
    ],
)
def test_a_job_that_contradicts_its_pods_is_refused(write_job, tmp_path: Path, capsys, new, more, words) -> None:
    job = write_job(old="cpu_ranks: 2", new=new)
    assert place(tmp_path / "runs" / "quick", job, *more) == 2
    assert words in capsys.readouterr().err


def test_a_gpu_that_the_pods_lack_is_the_jobs_mistake(write_job, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    job = write_job(old="gpu: none, cpu_ranks: 2", new="gpu: h100-80")
    assert place(tmp_path / "runs" / "quick", job) == 2
    assert "resources.gpu asks for 'h100-80'" in capsys.readouterr().err


def test_relative_paths_are_found_on_the_volume(job: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc" / "job.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(job.read_bytes())
    assert run(["place", str(job.parent / "quick"), "--job", str(elsewhere)]) == 0
    assert read_plan(job.parent / "quick").section("model")["path"] == str(job.parent / "model")
    assert run(["place", str(tmp_path / "etc" / "quick"), "--job", str(elsewhere)]) == 2


def test_the_verb_is_for_programs(capsys) -> None:
    assert "place" not in VERBS
    assert run(["place", "--help"]) == 0
    assert run(["place", "x", "--job", "/nowhere/job.yaml"]) == 2
    assert "/nowhere/job.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("250000 100000", 2), ("5000 100000", 1), ("-1 1", None)]
)
def test_cores_of_a_cgroup(text: str, cores: int | None) -> None:
    assert cores_worth(text) == cores
