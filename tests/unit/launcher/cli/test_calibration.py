"""What was learned can be seen, listed and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.calibration.store import Key, Measurement, append, read, store_path
from launcher.cli import run

KEY = Key(cluster="local@here", gpu="cpu", engine="zero1", family="lora")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEYARD_MEASURED", str(tmp_path / "measured.jsonl"))
    good, short = [
        Measurement(source=name, key=KEY, time=1.8e9, steps=steps, step_seconds=(0.1, 2.0), memory=(1000, 1100))
        for name, steps in (("good-run", 300), ("short-run", 3))
    ]
    append(store_path(None), [good, short])
    return store_path(None)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["calibration", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_says_what_corrects_and_why_not(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    found = told(capsys)
    assert found == told(capsys, "list")
    assert {one["source"]: one["why_not"] for one in found["measurements"]} == {
        "good-run": None,
        "short-run": "only 3 steps",
    }
    assert run(["calibration"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "x 20.00 x 1.10 memory; time not: only 3 steps" in shown and str(store) in shown
    assert told(capsys, "show", "good-run")["step_seconds"] == [0.1, 2.0]


def test_a_measurement_is_removed_and_put_back(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert run(["calibration", "remove", "short-run"]) == 0
    assert [one.source for one in read(store)] == ["good-run"]
    capsys.readouterr()
    assert told(capsys, "list")["removed"] == ["short-run"]
    assert run(["calibration", "restore", "short-run"]) == 0
    assert run(["calibration", "remove", "--all"]) == 0
    assert read(store) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["remove", "god-run"], "Did you mean good-run?"),
        (["remove"], "Name them, or say --all."),
        (["restore", "good-run"], "no measurement is called"),
        (["show", "nothing"], "`tuneyard calibration` lists them."),
        (["list", "--profile", "nowhere"], "no profile is called 'nowhere'"),
    ],
)
def test_what_is_not_there_is_said(capsys, arguments: list[str], says: str) -> None:
    assert run(["calibration", *arguments]) == 2
    assert says in capsys.readouterr().err
