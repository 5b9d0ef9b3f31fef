"""Gives every test here a run of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_runs import ROOT, STANDIN, Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose agent finds the stand-in in place of the trainer."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STANDIN), str(ROOT)]))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    made = Run(tmp_path / "support-1a2b")
    yield made
    made.clean_up()
