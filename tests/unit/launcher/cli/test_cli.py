"""The command line: exit codes, messages, what is written and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import VERBS, run
from launcher.jobfile import JobFileError, Problem, load_job
from launcher.planner.plan import make_plan
from launcher.runs.directory import find_run, list_runs, new_run_dir, run_id, write_run


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def made_run(write_job: Callable[..., Path], cpu_machine, tmp_path: Path) -> Path:
    """A run directory in which nothing was started."""
    job = write_job()
    run_dir = new_run_dir(tmp_path / "runs", "quick")
    write_run(run_dir, job.read_bytes(), make_plan(load_job(job).job, cpu_machine).document())
    return run_dir


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run([verb, "--help"]) == 0
        assert "Usage: tuneyard" in capsys.readouterr().out


def test_help_imports_neither_pydantic_nor_rich_nor_yaml() -> None:
    code = (
        "import sys; from launcher.cli import run; run(['--help']); "
        "slow = ('pydantic', 'rich', 'ruamel.yaml', 'jinja2', 'torch'); "
        "print([name for name in slow if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_misspelled_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sbumit"]) == 2
    assert "Did you mean submit?" in capsys.readouterr().err


def test_bad_job_file_is_one_message_with_code_2(write_job, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_job(old="max_length: 512", new="max_length: 5")
    assert run(["plan", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: {path}:5: data.max_length: must be a number of at least 8 (got 5)\n"
    assert shown.out == ""


def test_plan_as_json_is_the_plan(write_job, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(write_job()), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trainer"]["execution"]["world_size"] == 2
    assert plan["prediction"]["peak_bytes"] == sum(plan["prediction"]["binding_components_bytes"].values())
    assert plan["rejected"] and all(rejected["reason"] for rejected in plan["rejected"])


def test_dry_run_writes_nothing(write_job, job_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    path = write_job()
    monkeypatch.chdir(job_folder)
    before = everything_in(job_folder)
    assert run(["submit", str(path), "--dry-run"]) == 0
    assert everything_in(job_folder) == before
    assert "nothing was written or started" in capsys.readouterr().out


def test_unwritable_folder_of_runs(write_job, job_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = job_folder / "train.jsonl" / "runs"
    assert run(["submit", str(write_job()), "--runs", str(blocked)]) == 3
    shown = capsys.readouterr().err
    assert "cannot be written: Not a directory" in shown
    assert "--runs" in shown


def test_what_prepare_refuses_is_one_message_and_leaves_no_run_directory(
    write_job, job_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, job = job_folder / "runs", write_job()  # its model has no weights
    assert run(["submit", str(job), "--runs", str(runs), "--json"]) == 2
    shown = capfd.readouterr()
    found = json.loads(shown.out)["error"]
    assert (found["exit_code"], str(job_folder / "model") in found["message"]) == (2, True)
    assert shown.err.count("error: ") == 1
    assert "no run directory was kept" in shown.err
    assert "Traceback" not in shown.err
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize("ending", ["a terminal that is gone", "Ctrl-C", "a setting that the count refuses"])
def test_whatever_ends_the_preparation_leaves_no_run_directory(
    ending: str, write_job, job_folder: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job()
    problem = Problem(line=5, key="training", message="does not go")
    errors = (OSError(5, "gone"), KeyboardInterrupt(), JobFileError(str(job), [problem]))
    error, code = {
        "a terminal that is gone": (errors[0], None),
        "Ctrl-C": (errors[1], 130),
        "a setting that the count refuses": (errors[2], 2),
    }[ending]

    def prepare(*_: object) -> None:
        raise error

    monkeypatch.setattr("launcher.cli.submit.prepare", prepare)
    words = ["submit", str(job), "--runs", str(job_folder / "runs")]
    if code is None:
        with pytest.raises(OSError, match="gone"):
            run(words)
    else:
        assert run(words) == code
        assert "no run directory was kept" in capsys.readouterr().err
    assert list((job_folder / "runs").iterdir()) == []


def test_a_job_file_is_copied_byte_for_byte(made_run: Path, job_folder: Path) -> None:
    assert (made_run / "job.yaml").read_bytes() == (job_folder / "job.yaml").read_bytes()


def test_runs_are_found_by_path_name_id_and_last(made_run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for text in (str(made_run), made_run.name, "quick", run_id(made_run), run_id(made_run)[:8], "last"):
        assert find_run(text, runs) == made_run
    assert list_runs(runs) == [made_run]


def test_a_run_that_is_not_there(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "slow", "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == (
        f"error: no run 'slow' in {tmp_path / 'runs'}\nThere is: {made_run.name}. `tuneyard list` shows all.\n"
    )


def test_two_runs_of_one_name_are_told_apart(made_run: Path, tmp_path: Path, capsys) -> None:
    other = made_run.with_name("quick-20990101-000000-abcd")
    other.mkdir()
    (other / "plan.json").write_text((made_run / "plan.json").read_text())
    assert run(["status", "quick", "--runs", str(tmp_path / "runs")]) == 2
    assert "names 2 runs" in capsys.readouterr().err
    assert find_run("last", tmp_path / "runs") == other


def test_status_of_a_run_that_was_not_started(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(made_run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["attempt"], status["attempts"]) == ("none", None, [])


def test_stop_and_cancel_refuse_what_does_not_run(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("stop", "cancel"):
        assert run([verb, str(made_run)]) == 2
        assert "is not running" in capsys.readouterr().err
    assert not (made_run / "stop").exists()


def test_resume_refuses_a_finished_run(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made_run / "attempts.jsonl").write_text(json.dumps({"attempt": 0, "outcome": "finished"}) + "\n")
    assert run(["resume", str(made_run)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_a_damaged_plan_is_the_clusters_error(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made_run / "plan.json").write_text("{")
    assert run(["status", str(made_run)]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_init_writes_a_job_that_plans(job_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_folder / "new.yaml"
    assert run(["init", str(job), "--model", "model", "--data", "train.jsonl"]) == 0
    assert run(["plan", str(job)]) == 0
    assert run(["init", str(job)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "JobFile"


def test_the_manual_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "--markdown"]) == 0
    generated = capsys.readouterr().out
    manual = Path(__file__).parents[4] / "docs" / "job-file.md"
    assert generated in manual.read_text(), "write the output of `tuneyard schema --markdown` into docs/job-file.md"
