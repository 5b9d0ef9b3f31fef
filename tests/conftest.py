"""The one reason to skip a test: there is no GPU. The count is printed with the summary (`-ra`).

Every test has a store of measurements of its own: what runs here have shown changes no expectation.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_measurements(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    file: Path = tmp_path_factory.mktemp("measured") / "measured.jsonl"
    monkeypatch.setenv("TUNEYARD_MEASURED", str(file))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
