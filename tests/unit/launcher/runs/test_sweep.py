"""Settings of a sweep taken apart, combined, and put into job files."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from launcher.cli import run
from launcher.cli._sweeping import plan_all
from launcher.cli.sweep import _print_table, _why
from launcher.errors import JobError
from launcher.runs.directory import remove_run
from launcher.runs.sweep import (
    Sweep,
    best,
    combinations_of,
    derived,
    find_sweep,
    job_text,
    read_sweep,
    results,
    short_names,
)
from launcher.yamlfile.document import parse_document

JOB = """\
name: tiny            # of the run
training:
  learning_rate: 1e-3   # to be swept
  max_steps: 3
"""


def test_values_are_those_of_a_job_file_and_the_last_setting_changes_fastest() -> None:
    found = combinations_of(["training.learning_rate=1e-5,2.5e-5", "method.target_modules=[q, v],all-linear"])
    rates, modules = (1e-5, 2.5e-5), (["q", "v"], "all-linear")
    wanted = [{"training.learning_rate": r, "method.target_modules": m} for r in rates for m in modules]
    assert found == wanted
    assert combinations_of(["checkpoint.every_steps=5,null", "a.b=true"])[1] == {
        "checkpoint.every_steps": None,
        "a.b": True,
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["learning_rate"], "is no setting"),
        (["a.b=1", "a.b=2"], "given twice"),
        (["a.b=1,,2"], "a value is missing"),
        (["name=a,b"], "a name of its own"),
        (["a.b=[1"], "is no value"),
        ([f"a.b={','.join(map(str, range(1001)))}"], "1001 runs"),
        (["a b=1"], "is no setting"),
    ],
)
def test_what_cannot_be_understood_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(JobError, match=words):
        combinations_of(given)


def test_a_derived_job_keeps_comments_in_its_text_and_lines_in_its_problems() -> None:
    settings = {"training.learning_rate": 1e-5, "method.r": 8}
    text = job_text(JOB, settings, "tiny-0").decode()
    assert text.splitlines()[0] == "name: tiny-0          # of the run"
    assert "learning_rate: 1e-05  # to be swept" in text
    read = parse_document(text, "x").data
    document = derived(parse_document(JOB, "job.yaml"), settings, "tiny-0")
    assert document.data["training"] == {"learning_rate": 1e-5, "max_steps": 3}
    assert document.data == read | {"training": document.data["training"]}
    assert document.line(("training", "learning_rate")) == 3
    with pytest.raises(JobError, match="max_steps is no section"):
        derived(document, {"training.max_steps.x": 1}, "tiny-0")


def test_every_combination_is_planned_and_a_wrong_one_is_named_with_its_line(write_job) -> None:
    path = write_job()
    planned = plan_all(path, combinations_of(["training.max_steps=3,4"]))
    base = planned[0].base_name
    assert [(one.name, one.plan.trainer.training.max_steps) for one in planned] == [(f"{base}-0", 3), (f"{base}-1", 4)]
    with pytest.raises(JobError, match=r"(?s)with training.max_steps=-1:.*max_steps") as refused:
        plan_all(path, combinations_of(["training.max_steps=3,-1"]))
    assert str(path) in str(refused.value)
    with pytest.raises(JobError) as refused:
        plan_all(path, combinations_of(["training.max_steps=-2,-1"]))
    assert all(f"with training.max_steps={value}:" in str(refused.value) for value in (-2, -1)), "all at once"


def test_a_sweep_that_is_interrupted_before_it_starts_leaves_nothing(
    write_job, tmp_path: Path, monkeypatch, capsys
) -> None:
    prepared: list[Path] = []

    def prepare(run_dir: Path, console: object) -> None:
        prepared.append(run_dir)
        if len(prepared) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("launcher.cli.submit.prepare", prepare)
    monkeypatch.setattr("launcher.cli.submit.replan_with_counts", lambda *_, **__: None)
    words = ["sweep", str(write_job()), "--set", "training.max_steps=3,4,5", "--runs", str(tmp_path / "runs")]
    assert run(words) == 130
    assert len(prepared) == 2 and list((tmp_path / "runs").iterdir()) == []
    assert "no run directory was kept" in capsys.readouterr().err


def test_a_sweep_that_storage_refuses_leaves_nothing(write_job, tmp_path: Path, monkeypatch) -> None:
    written: list[Path] = []

    def refuse(run_dir: Path, *_: object) -> None:
        written.append(run_dir)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(run_dir))

    monkeypatch.setattr("launcher.cli.sweep.write_run", refuse)
    words = ["sweep", str(write_job()), "--set", "training.max_steps=3,4,5", "--runs", str(tmp_path / "runs")]
    assert run(words) == 3
    assert len(written) == 2 and list((tmp_path / "runs").iterdir()) == []


def test_a_directory_into_which_somebody_still_writes_is_removed(tmp_path: Path, monkeypatch) -> None:
    real, left = shutil.rmtree, tmp_path / "run"
    (left / "logs").mkdir(parents=True)
    times: list[bool] = []

    def with_a_last_word(path: Path, ignore_errors: bool = False) -> None:
        real(path, ignore_errors=ignore_errors)
        if not times:
            (left / "logs").mkdir(parents=True)
        times.append(ignore_errors)

    monkeypatch.setattr("launcher.runs.directory.shutil.rmtree", with_a_last_word)
    remove_run(left)
    assert not left.exists() and times == [True, True]


def test_a_sweep_is_found_again_by_its_folder_its_name_or_as_the_last(tmp_path: Path) -> None:
    for name in ("b-sweep-20260101-000000-aaaa", "a-sweep-20260102-000000-aaaa"):
        (tmp_path / name).mkdir()
        made = Sweep(folder=tmp_path / name, backend="local", runs=[tmp_path / "r"], combinations=[{"a.b": 1}])
        made.write()
        assert read_sweep(tmp_path / name) == made
    assert find_sweep("last", tmp_path).name.startswith("a-sweep")
    assert find_sweep("b-", tmp_path).name.startswith("b-sweep")
    assert find_sweep(str(tmp_path / name), Path("elsewhere")).name == name
    with pytest.raises(JobError, match="names 0 sweeps"):
        find_sweep("c", tmp_path)
    with pytest.raises(JobError, match="holds no sweep"):
        read_sweep(tmp_path)
    for text in ('{"runs": 3}', "{}", '{"backend": "local", "runs": [{"run": "a"}]}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(JobError, match="is damaged"):
            read_sweep(tmp_path)


def test_runs_are_ranked_by_the_loss_of_the_checkpoint_that_is_exported(tmp_path: Path, capsys) -> None:
    """The lowest loss of any step says nothing of the newest checkpoint, and that is the one that is exported."""
    losses = {"spoilt": [(10, 0.5), (20, 0.4), (30, 0.9)], "steady": [(10, 0.8), (20, 0.7), (30, 0.6)]}
    for name, told in losses.items():
        run = tmp_path / name
        (run / "logs").mkdir(parents=True)
        lines = [json.dumps({"step": step, "eval_loss": loss}) for step, loss in told]
        (run / "logs" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        progress = {"step": 30, "max_steps": 30, "last_checkpoint": {"step": 30, "path": "checkpoints/step-00000030"}}
        (run / "progress.json").write_text(json.dumps(progress))
    (tmp_path / "spoilt" / "checkpoints" / "step-00000020").mkdir(parents=True)
    runs = [tmp_path / name for name in losses]
    made = Sweep(folder=tmp_path, backend="local", runs=runs, combinations=[{"a.b": 1}, {"a.b": 2}])
    rows = results(made)
    assert [(row["eval_loss"], row["eval_step"], row["lowest_eval_loss"]) for row in rows] == [
        (0.9, 30, 0.4),
        (0.6, 30, 0.6),
    ]
    winner = best(rows)
    assert winner["run"] == "steady"
    said = "\n".join(_why(rows, winner))
    assert "0.6000 at step 30" in said and "tuneyard export spoilt --step 20" in said


def test_answers_count_before_losses() -> None:
    rows = [
        {"run": "a", "eval_loss": 1.0, "exact_match": None},
        {"run": "b", "eval_loss": 0.5, "exact_match": None},
        {"run": "c", "eval_loss": None, "exact_match": None},
    ]
    assert best(rows) is rows[1] and best(rows[2:]) is None
    assert best([*rows, {"run": "d", "eval_loss": 2.0, "exact_match": 0.1}])["run"] == "d"


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["training.learning_rate", "method.r"], ["learning_rate", "r"]),
        (["method.r", "other.r", "rr"], ["method.r", "other.r", "rr"]),
        (["a.b.c", "b.c", "c"], ["a.b.c", "b.c", "c"]),
    ],
)
def test_settings_have_the_shortest_names_that_tell_them_apart(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short


def test_the_table_has_a_column_for_each_setting_and_none_that_would_be_empty(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = {"run": "job-0-20261122-032807-ndup", "state": "ended", "outcome": "finished", "step": 40, "loss": 1.6435}
    row = {**told, "settings": {"training.learning_rate": 0.003, "a.names": ["[red]x"]}}
    _print_table([row | {"eval_loss": None, "exact_match": None}], None)
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["learning_rate", "names", "run", "state", "outcome", "step", "loss"]
    assert line.split() == ["0.003", "['[red]x']", told["run"], "ended", "finished", "40", "1.6435"]
