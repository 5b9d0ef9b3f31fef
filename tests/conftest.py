"""The one reason to skip a test: there is no GPU. The count is printed with the summary (`-ra`).

Tests run in lanes, which `make test` gives to three workers: a lane is a file, or all that shares one test cluster.
Every test has a store of measurements and of counted data of its own: what runs here have shown changes no expectation.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

for _number in (signal.SIGINT, signal.SIGHUP):
    # In the background and under nohup they are ignored, and so they would be in every process that a test starts.
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

_KUBERNETES = "tests/cluster/kubernetes/"
CLUSTERS = {
    "chart, outcomes, testbed": tuple(
        _KUBERNETES + name for name in ("chart/", "test_outcomes", "test_quickstart", "test_testbed")
    ),
    "runs on Kubernetes": (_KUBERNETES,),
    "SLURM": ("tests/cluster/",),
}
"""Lanes of many files, which begin first: they mostly wait for clusters of their own, while the rest computes."""


def lane(test: str) -> str:
    """What a test's neighbours in one worker are: those of its file, or of its cluster."""
    return next((name for name, files in CLUSTERS.items() if test.startswith(files)), test.partition("::")[0])


@pytest.fixture(scope="session")
def measurements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for every test's store of measurements."""
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(autouse=True)
def _own_measurements(measurements: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    monkeypatch.setenv("XDG_STATE_HOME", str(measurements / name))  # runs that are found from anywhere
    monkeypatch.setenv("TUNEYARD_MEASURED", str(measurements / f"{name}.jsonl"))
    monkeypatch.setenv("TUNEYARD_COUNTED", str(measurements / f"{name}-counted"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out lanes, not tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane(nodeid)

    return Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: lane(item.nodeid) not in CLUSTERS)  # stable: only the clusters move
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
