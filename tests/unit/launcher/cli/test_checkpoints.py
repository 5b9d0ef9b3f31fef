"""`tuneyard checkpoints`: what is listed, what a resume takes, and that nothing goes unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import Status
from launcher.cli import run
from launcher.cli.checkpoints import to_be_pruned
from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from launcher.runs.directory import new_run_dir, write_run
from rundir.quantities import age
from rundir.states import RunState


def entry(step: int, **changes: Any) -> dict[str, Any]:
    facts = {"step": step, "name": f"step-{step:08d}", "state": "published", "permanent": False, "bytes": 3 << 30}
    origin = {"attempt": 0, "engine": "zero2", "world_size": 8, "saved": 1795000000.1 + step}
    return {**facts, **origin, "problem": None, "verified": None, **changes}


FOUND = {
    "checkpoints": [
        entry(60),
        entry(120, problem="rank-00001.safetensors: content does not match its SHA-256", verified=False),
        entry(90, permanent=True),
        entry(30),
        entry(150, name=".staging-step-00000150-001", state="staging", saved=None, engine=None) | {"step": None},
    ],
    "removed": [],
    "resume_from": "step-00000090",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The trainer's part, played: gives `FOUND` and notes how it was asked."""
    calls: list[tuple[str, ...]] = []

    def answer(command: str, run_dir: Path, *arguments: str) -> dict[str, Any]:
        calls.append((command, *arguments))
        return FOUND | ({"removed": ["step-00000030"]} if "--prune" in arguments else {})

    monkeypatch.setattr("launcher.cli.checkpoints.ask_trainer", answer)
    return calls


@pytest.fixture
def run_dir(write_job: Callable[..., Path], cpu_machine, tmp_path: Path) -> Path:
    """A run that has been planned."""
    job = write_job()
    folder = new_run_dir(tmp_path / "runs", "quick")
    write_run(folder, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())
    return folder


def test_newest_first_with_what_a_resume_takes(run_dir: Path, asked, capsys) -> None:
    assert run(["checkpoints", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        *(f"step-{step:08d}" for step in (120, 90, 60, 30)),
        ".staging-step-00000150-001",
    ]
    assert "damaged" in lines[1]
    assert "for good" in lines[2] and "<- resume" in lines[2] and "3.0 GiB" in lines[2]
    assert "content does not match its SHA-256" in lines[6]
    assert lines[-1].startswith("Next: tuneyard checkpoints")
    assert asked == [("checkpoints",)]


def test_verifying_ends_with_5_when_one_is_damaged(run_dir: Path, asked, capsys) -> None:
    assert run(["checkpoints", str(run_dir), "--verify", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["resume_from"], told["run"]) == ("step-00000090", str(run_dir))
    assert asked == [("checkpoints", "--verify")]


def test_pruning_asks_first(run_dir: Path, asked, capsys) -> None:
    assert run(["checkpoints", str(run_dir), "--prune", "1"]) == 2
    assert "2 checkpoints would be removed, and nobody can be asked\nAdd --yes." in capsys.readouterr().err
    assert ("checkpoints", "--prune", "1") not in asked
    assert run(["checkpoints", str(run_dir), "--prune", "1", "--yes"]) == 0
    assert "removed: step-00000030" in capsys.readouterr().out
    assert asked[-1] == ("checkpoints", "--prune", "1")


def test_a_living_run_is_not_pruned(run_dir: Path, asked, monkeypatch, capsys) -> None:
    monkeypatch.setattr("cluster.local.backend.LocalBackend.status", lambda self, run_dir: Status(RunState.RUNNING))
    assert run(["checkpoints", str(run_dir), "--prune", "1", "--yes"]) == 2
    assert "is alive and prunes for itself\nSet checkpoint.keep" in capsys.readouterr().err
    assert asked == []
    assert run(["checkpoints", str(run_dir)]) == 0


def test_permanent_ones_stay_and_do_not_count() -> None:
    assert [entry["step"] for entry in to_be_pruned(FOUND, 1)] == [60, 30]
    assert to_be_pruned(FOUND, 3) == []


def test_a_run_without_checkpoints(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the real trainer."""
    assert run(["checkpoints", str(run_dir)]) == 0
    assert "has no checkpoint yet" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (90, "2 min"), (7200, "2 h"), (2e5, "2 d")])
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text
