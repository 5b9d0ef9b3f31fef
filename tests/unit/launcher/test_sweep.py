"""Settings of a sweep taken apart, combined, and put into job files."""

from pathlib import Path

import pytest

from launcher.cli.sweep import _print_table
from launcher.cli.sweeping import plan_all
from launcher.errors import JobError
from launcher.jobfile.document import parse_document
from launcher.sweep import Sweep, best, combinations_of, derived, find_sweep, job_text, read_sweep, short_names

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
