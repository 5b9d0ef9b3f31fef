"""What `list`, `status` and `logs` tell of runs at a glance, and where they look for them."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import Status
from launcher.cli import run
from launcher.report.html import write_report
from launcher.runs.directory import find_run, link_run
from launcher.runs.overview import overview
from launcher.runs.registry import register, registered
from launcher.runs.sweep import Sweep
from rundir.states import RunState

TRAINER = {"name": "job", "model": {"path": "/models/small"}, "method": {"kind": "lora", "quantization": "nf4"}}


def made(root: Path, name: str, begun: float = 1.7e9, **progress: Any) -> Path:
    """A run that has ended, as its directory tells it."""
    folder = root / name
    (folder / "logs").mkdir(parents=True)
    launch = {"backend": "local", "nodes": 1, "ranks_per_node": 2}
    (folder / "plan.json").write_text(json.dumps({"launch": launch, "trainer": TRAINER}))
    record = {"attempt": 0, "outcome": "finished", "submitted": begun, "started": begun + 1, "ended": begun + 90}
    (folder / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    facts = {"attempt": 0, "state": "finished", "step": 30, "max_steps": 30, "loss": 0.25, "heartbeat": begun + 80}
    (folder / "progress.json").write_text(json.dumps(facts | progress))
    lines = [{"step": 20, "eval_loss": 0.75}, {"step": 30, "loss": 0.25}]
    (folder / "logs" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"eval_loss"')
    return folder


def test_list_tells_when_how_long_and_how_good_with_sweeps_together(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    runs = [made(tmp_path, f"job-{n}-2026010{n}-000000-aaaa") for n in (1, 2, 3)]
    swept = Sweep(folder=tmp_path / "job-sweep", backend="local", runs=runs[::2], combinations=[{"a": 1}, {"a": 2}])
    swept.folder.mkdir()
    swept.write()
    assert run(["list", "--runs", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    first = rows[0]
    assert (first["begun"], first["seconds"]) == ("2023-11-15 03:43 +0530", 89)
    assert (first["model"], first["method"], first["loss"], first["eval_loss"]) == ("small", "lora nf4", 0.25, 0.75)
    assert [row["sweep"] for row in rows] == ["job-sweep", None, "job-sweep"]
    assert run(["list", "--runs", str(tmp_path)]) == 0
    order = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert order == ["job-sweep:", runs[0].name, runs[2].name, runs[1].name]
    monkeypatch.undo()
    time.tzset()


def test_a_run_is_found_from_any_folder_by_those_who_do_not_say_where(tmp_path: Path, monkeypatch, capsys) -> None:
    far = made(tmp_path / "far", "job-20260101-000000-aaaa")
    link_run(tmp_path / "far", far)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("TUNEYARD_RUNS", raising=False)
    for words in (["status", "--json"], ["status", "job", "--json"]):
        assert run(words) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["run"], found["overview"]["eval_loss"]) == (str(far), 0.75)
    assert run(["list", "--json"]) == 0
    assert [row["folder"] for row in json.loads(capsys.readouterr().out)] == [str(far.parent)]
    assert run(["status", "job", "--runs", str(here)]) == 2, "who says where means there"
    near = made(here / "runs", "job-20250101-000000-aaaa")
    assert find_run("last", here / "runs", anywhere=True) == near, "this folder's runs come first"


def test_a_count_that_the_plan_did_not_expect_is_shown(tmp_path: Path, capsys) -> None:
    folder = made(tmp_path, "job-20260101-000000-aaaa", caution="9 parameters train and the plan counted 3")
    assert run(["status", str(folder)]) == 0
    assert "9 parameters train" in capsys.readouterr().out
    assert "9 parameters train" in write_report(folder).read_text()


def test_the_days_between_a_stop_and_a_resume_are_not_part_of_a_run(tmp_path: Path) -> None:
    folder = made(tmp_path, "job-20260101-000000-aaaa", attempt=1, heartbeat=1.7e9 + 300_020)
    late = {"attempt": 1, "outcome": None, "submitted": 1.7e9 + 300_000, "started": 1.7e9 + 300_000, "ended": None}
    with (folder / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(late) + "\n")
    os.utime(folder / "progress.json", (1.7e9, 1.7e9))
    assert (overview(folder).seconds, overview(folder).begun) == (89 + 20, 1.7e9)


def test_runs_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    gone, moved = made(tmp_path, "gone-20260101-000000-aaaa"), made(tmp_path / "a", "moved-20260101-000000-aaaa")
    register(gone)
    register(moved)
    os.rename(gone / "plan.json", gone / "other")  # noqa: PTH104
    assert registered() == [moved]
    there = made(tmp_path / "b", moved.name)
    register(there)
    assert registered() == [there]


NUMBERS = b'{"attempt": "x", "step": "y", "loss": "z", "trainer": 3, "launch": 4, "last_checkpoint": 3, "time": "x"}\n'
DAMAGES = {"missing": None, "empty": b"", "half": b"{", "a list": b"[]", "binary": bytes(range(256)), "types": NUMBERS}


@pytest.mark.parametrize("file", ["plan.json", "progress.json", "attempts.jsonl", "logs", "phase.json"])
def test_whatever_is_wrong_with_a_file_of_a_run_no_verb_breaks(tmp_path: Path, file: str, capsys) -> None:
    verbs = (["status", "job"], ["list"], ["report", "job"], ["logs", "job"], ["resume", "job", "--dry-run"])
    for damage, content in [*DAMAGES.items(), ("a folder", None)]:
        folder = made(tmp_path / damage.replace(" ", "-"), "job-20260101-000000-aaaa")
        place = folder / file
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if damage == "a folder":
            place.mkdir()
        elif content is not None:
            place.write_bytes(content)
        for verb in verbs:
            assert run([*verb, "--runs", str(folder.parent)]) in (0, 2, 3, 4), f"{verb} with {file}: {damage}"
    assert "Traceback" not in capsys.readouterr().err


def test_logs_refuse_ranks_that_there_are_not(tmp_path: Path, capsys) -> None:
    made(tmp_path, "job-20260101-000000-aaaa")
    assert run(["logs", "job", "--runs", str(tmp_path), "--rank", "2"]) == 2
    assert "ranks 0 to 1" in capsys.readouterr().err
    assert run(["logs", "job", "--runs", str(tmp_path), "--rank", "1"]) == 0
    assert "rank 1 has printed nothing" in capsys.readouterr().err


def test_during_a_restart_status_does_not_take_the_last_attempt_for_the_present(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    name = "job-20260101-000000-aaaa"
    made(tmp_path, name, state="training", step=10, tokens=1000, tokens_per_second=10.0)
    for attempt in (None, 1):  # waiting for the next one, and in it before its trainer speaks
        monkeypatch.setattr(
            "cluster.local.backend.LocalBackend.status", lambda *_, a=attempt: Status(RunState.RUNNING, "waiting", a)
        )
        assert run(["status", name, "--runs", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["seconds_left"] is None
        assert run(["status", name, "--runs", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "the word of attempt 0" in shown
        assert "of training" not in shown and "tokens/s" not in shown


def test_runs_in_any_folder_are_listed_whatever_folder_is_the_usual_one(tmp_path: Path, monkeypatch, capsys) -> None:
    far = made(tmp_path / "far", "job-20260101-000000-aaaa")
    register(far)
    monkeypatch.setenv("TUNEYARD_RUNS", str(tmp_path / "usual"))
    assert run(["list", "--anywhere", "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == [far.name]
    assert run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
