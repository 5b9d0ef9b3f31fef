"""Goodput for people: in the status, and in the report's section on staying alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.run.goodput import PHASES, Goodput
from launcher.cli import run
from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from launcher.report import goodput
from launcher.report.html import write_report
from launcher.runs.directory import new_run_dir, write_run
from tests.support.documents import typed, typed_progress

DECISION = {"action": "restart", "reason": "crashed: going on from step 8", "wait_seconds": 10.0,
            "exclude": [{"node": "node-7", "evidence": "Xid 79", "until": 2e9}]}  # fmt: skip
CRASHED = {
    "attempt": 0,
    "outcome": "crashed",
    "cause": "train: rank 1 killed by SIGKILL\nand more",
    "first_step": 0,
    "last_step": 12,
    "last_checkpoint_step": 8,
    "phase_seconds": {"queue": 5.0, "import": 8.0, "first_step": 1.0, "training": 44.0, "save": 2.0, "other": 0.2},
    "lost_steps": 4,
    "lost_seconds": 16.0,
    "decision": DECISION,
}
ALIVE = {"attempt": 1, "outcome": None, "first_step": 8, "last_step": 9, "phase_seconds": {"queue": 10.0}}
FINISHED = ALIVE | {
    "outcome": "finished",
    "last_step": 20,
    "phase_seconds": {"queue": 10.0, "import": 7.0, "training": 44.0},
    "lost_steps": 0,
    "decision": {"action": "stop", "reason": "the run is finished", "wait_seconds": 0.0, "exclude": []},
}


def account(records: list[dict[str, Any]], progress: dict[str, Any] | None = None) -> Goodput | None:
    return goodput.account(typed(records), None if progress is None else typed_progress(progress))


@pytest.fixture
def run_dir(write_job: Callable[..., Path], cpu_machine, tmp_path: Path) -> Callable[..., Path]:
    """A run with these attempts."""

    def make(*records: dict[str, Any]) -> Path:
        job = write_job()
        folder = new_run_dir(tmp_path / "runs", "quick")
        write_run(folder, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())
        (folder / "attempts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    return make


def test_every_phase_belongs_to_one_group() -> None:
    grouped = [phase for phases in goodput.GROUPS.values() for phase in phases]
    assert sorted([*grouped, "training"]) == sorted(PHASES)


def test_the_bar_is_all_of_the_time() -> None:
    found = account([CRASHED, FINISHED])
    assert found is not None
    parts = goodput.slices(found)
    assert sum(part.share for part in parts) == pytest.approx(100)
    assert sum(part.seconds for part in parts) == pytest.approx(found.wall_seconds)
    assert [part.label for part in parts][:3] == ["training that counts", "training done twice", "starting"]


def test_an_attempt_that_is_alive_does_not_count_yet() -> None:
    assert account([]) is None
    assert account([ALIVE | {"attempt": 0}]) is None
    assert account([CRASHED, ALIVE]) == account([CRASHED])
    assert account([CRASHED, ALIVE], {"attempt": 0}) == account([CRASHED]), "it has not said a word"


def test_an_attempt_that_is_alive_counts_until_its_last_heartbeat() -> None:
    alive = ALIVE | {"attempt": 0, "started": 100.0, "phase_seconds": {"queue": 10.0, "gate": 1.0}}
    spent = {"launch": 4.0, "load": 5.0, "first_step": 1.0, "training": 60.0, "save": 2.0}
    progress = {"attempt": 0, "step": 61, "resumed_from": None, "heartbeat": 190.0, "phase_seconds": spent}
    found = account([alive], progress)
    assert found is not None
    assert (found.wall_seconds, found.useful_seconds, found.lost_steps) == (100.0, 60.0, 0)
    assert found.goodput == 0.6


@pytest.mark.parametrize("state", ["preparing", "starting", "loading"])
def test_a_resume_that_still_loads_has_lost_only_what_no_checkpoint_holds(run_dir, capsys, state: str) -> None:
    alive = {"attempt": 1, "outcome": None, "started": 200.0, "phase_seconds": {"queue": 1.0}}
    progress = {"attempt": 1, "state": state, "step": 12, "max_steps": 40, "last_checkpoint": {"step": 8, "path": "x"}}
    progress |= {"resumed_from": None, "heartbeat": 230.0, "phase_seconds": {"launch": 2.0, "load": 20.0}}
    found = account([CRASHED, alive], progress)
    assert found is not None and (found.lost_steps, found.lost_seconds) == (4, 16.0)
    folder = run_dir(CRASHED, alive)
    (folder / "progress.json").write_text(json.dumps(progress))
    assert run(["status", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(lost 4 steps, 16 s)" in shown and "resuming from step 8 of 40" in shown


@pytest.mark.parametrize(
    ("steps", "seconds", "text"),
    [(0, 0.0, "nothing"), (1, 0.4, "1 step, < 1 s"), (4, 12.3, "4 steps, 12 s")],
)
def test_what_was_lost(steps: int, seconds: float, text: str) -> None:
    assert goodput.lost(steps, seconds) == text


@pytest.mark.parametrize(("share", "text"), [(0.934, "93 %"), (0.013, "1.3 %"), (0.0, "0 %"), (1.0, "100 %")])
def test_shares(share: float, text: str) -> None:
    assert goodput.percent(share) == text


def test_status_of_a_run_that_was_restarted(run_dir, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir(CRASHED, ALIVE)
    assert run(["status", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "restarts 1 goodput 47 % (lost 4 steps, 16 s)" in shown
    assert "decided restart in 10 s: crashed: going on from step 8; without node-7" in shown
    assert run(["status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["goodput"]
    assert (told["lost_steps"], told["lost_seconds"]) == (4, 16.0)


def test_status_before_anything_ended(run_dir, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(run_dir(ALIVE | {"attempt": 0}))]) == 0
    shown = capsys.readouterr().out
    assert "goodput" not in shown and "restarts" not in shown and "decided" not in shown


def test_the_report_tells_how_the_run_stayed_alive(run_dir) -> None:
    html = write_report(run_dir(CRASHED, FINISHED)).read_text()
    section = html[html.index("<h2>Staying alive</h2>") : html.index("<h2>Plan</h2>")]
    for text in ("(lost 4 steps, 16 s)", "1 restart.", "4 steps, 16 s", "nothing", "starting 16 s", "0 to 12"):
        assert text in section, text
    assert "and more" not in section
    assert 'aria-label="Where the time went: training that counts' in section
    assert "Last decision" not in section, "the run is finished"


def test_records_of_an_older_version_still_make_a_report(run_dir) -> None:
    old = {"attempt": 0, "outcome": "crashed", "cause": "x", "seconds": {"train": 60.0}, "first_step": 0}
    html = write_report(run_dir(old)).read_text()
    assert "train 60 s" in html
    assert "Goodput" not in html
